"""Made-up networks, inputs and uses of the graph, each run on stock and on fused operators: no difference in kind.

    python tests/kernels/against_stock.py --start 0 --cases 1000

Under AddressSanitizer (``make fuzz-kernels``) the library's memory is that of the C library, to the byte, and filled
with NaN.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from contextlib import nullcontext

import numpy as np
import paddle
from made_up import Case
from uses import USES, WEIGHTS

from ppmobilenet.kernels import accelerate, run


def result(case: Case, fused: bool) -> dict | str:
    """What a user sees of the case on these operators, or the name of the exception."""
    model = case.model()
    if fused:
        report = accelerate(model, threads=case.threads)
        if report.accelerated:
            best = model._cpu_kernels.library.ppm_instruction_set()
            model._cpu_kernels.instruction_set = min(case.set, best)
    try:
        with paddle.no_grad() if case.no_grad else nullcontext():
            found = USES[case.use](case, model, case.input())
    except Exception as error:  # of any kind: it has to be the same kind
        return type(error).__name__
    named = list(model.named_parameters())
    found.update({f"{name}.grad": p.grad for name, p in named})
    found.update({name: value for name, value in named if name.endswith(("_mean", "_variance"))})
    return {name: _array(v) if isinstance(v, paddle.Tensor) else v for name, v in found.items()}


def _array(value: paddle.Tensor) -> np.ndarray:
    return (value.astype("float32") if "bfloat" in str(value.dtype) else value).numpy()


def difference(stock: dict | str, fused: dict | str, tolerance: float) -> str | None:
    """Say in what kind two results differ, or by how much more than roundings can."""
    if isinstance(stock, str) or isinstance(fused, str):
        names = [r if isinstance(r, str) else "a result" for r in (stock, fused)]
        return None if names[0] == names[1] else f"stock: {names[0]}, fused: {names[1]}"
    if stock.keys() != fused.keys():
        return f"only one has {sorted(stock.keys() ^ fused.keys())}"
    for name, theirs in stock.items():
        ours = fused[name]
        if not isinstance(theirs, np.ndarray) or not isinstance(ours, np.ndarray):
            if type(theirs) is not type(ours) or theirs != ours:
                return f"{name}: stock {type(theirs).__name__}, fused {type(ours).__name__}"
            continue
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return f"{name}: stock {theirs.dtype}{theirs.shape}, fused {ours.dtype}{ours.shape}"
        if np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
            ours, theirs = np.nan_to_num(ours.astype("float64")), np.nan_to_num(theirs.astype("float64"))
            scale = max(np.linalg.norm(theirs), 1e-3 * np.sqrt(theirs.size))
            if np.linalg.norm(ours - theirs) <= tolerance * scale:
                continue
        return f"{name}: values apart"
    return None


def check(number: int) -> str | None:
    """Run a case; what differs, or None. Values may differ by bad luck (a ReLU's corner), but not with three inputs."""
    for draw in range(3):
        case = Case(number, draw, list(USES), np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values()))
        paddle.seed(number)
        stock = result(case, False)
        paddle.seed(number)
        # fifty layers that are each normalised by a handful of values multiply roundings without bound
        told = difference(stock, result(case, True), 0.02 if case.kind == "chain" or case.mode == "eval" else np.inf)
        if told is None or not told.endswith("values apart"):
            break
    return (
        told
        and f"case {number} ({case.use}, {case.kind}, {case.mode}, {case.shape} {case.dtype} {case.layout}): {told}"
    )


class ExactLoan:
    """In place of the pool's blocks: memory that ends where it was asked to end, so that a sanitizer sees its end."""

    _libc = ctypes.CDLL(None)
    _libc.aligned_alloc.restype = ctypes.c_void_p

    def __init__(self, size: int):
        self._at = self._libc.aligned_alloc(ctypes.c_size_t(64), ctypes.c_size_t(max(64, -(-size // 64) * 64)))
        ctypes.memset(self._at, 0xFF, size)
        self.address = ctypes.c_void_p(self._at)

    def release(self) -> None:
        if self._at is not None:
            self._libc.free(ctypes.c_void_p(self._at))
            self._at = None

    __del__ = release


def main() -> int:
    """Run cases and print what differs; the number of differences decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--exact-memory", action="store_true", help="for AddressSanitizer")
    words = parser.parse_args()
    if words.exact_memory:
        run._Loan = ExactLoan
    wrong = 0
    for number in range(words.start, words.start + words.cases):
        told = check(number)
        if told:
            wrong += 1
            print(told, flush=True)
        if (number + 1) % 100 == 0:
            print(f"... {number + 1 - words.start} of {words.cases} cases, {wrong} differ", file=sys.stderr, flush=True)
    print(f"{words.cases} cases from {words.start}: {wrong} differ")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
