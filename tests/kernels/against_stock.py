"""Made-up networks, inputs and uses of the graph, each run on stock and on fused operators: no difference in kind.

    python tests/kernels/against_stock.py --start 0 --cases 1000

With ``--sanitizer FOLDER`` the library is compiled with AddressSanitizer. Its memory is then the C library's, to the
byte and filled with NaN, and each of Paddle's tensors has memory of its own: ``make fuzz-kernels``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import paddle
from made_up_uses import Case, convs, norms
from uses import USES, WEIGHTS

from ppmobilenet.kernels import accelerate, build, run


class Roundings:
    """As a hook of layers in float64: their maps, and the gradients of these, are off by as much as float32 rounds.

    A batch norm's gradient is the difference of two numbers, each rounded, and of one sign in a whole channel.
    """

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def _some(self, shape):
        return paddle.to_tensor(2.0**-24 * self._rng.normal(size=shape))

    def __call__(self, layer, inputs, out):
        out = out * (1 + self._some(out.shape))
        if isinstance(layer, paddle.nn.BatchNorm2D):
            (x,), wide = inputs, [1, -1, 1, 1]
            variance = x.detach().var([0, 2, 3], unbiased=False) if layer.training else layer._variance
            scale = (layer.weight.detach() / paddle.sqrt(variance + layer._epsilon)).reshape(wide)
            out = out + (x - x.detach()) * scale * self._some([out.shape[1]]).reshape(wide)
        return out


def result(one: Case, fused: bool, exact: bool = False, roundings: Roundings | None = None) -> dict | str:
    """What a user sees of the case on these operators (``exact``: in float64), or the name of the exception."""
    model, x = one.model(), one.input()
    if exact:
        model.to(dtype="float64")
        x = x.astype("float64")
    if roundings:
        for layer in [*convs(model), *norms(model)]:
            layer.register_forward_post_hook(roundings)
    paddle.seed(one.number)  # of paths that are dropped
    if fused:
        report = accelerate(model, threads=one.threads)
        if report.accelerated:
            best = model._cpu_kernels.library.ppm_instruction_set()
            model._cpu_kernels.instruction_set = min(one.set, best)
    try:
        with paddle.no_grad() if one.no_grad else nullcontext():
            found = USES[one.use](one, model, x)
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


def _no_worse(one: Case, fused: dict, stock: dict) -> bool:
    """Whether what is apart is rounding: the error against float64 is at most twice stock's.

    Where stock is right by luck (two equal photos cancel each other to the last bit, three do not) there is nothing to
    take twice of. So the error may also be twice what roundings of the maps make of the exact result: no float32
    arithmetic can know it better.
    """
    exact = result(one, False, exact=True)
    if isinstance(exact, str):
        return False
    moved = [result(one, False, exact=True, roundings=Roundings(i)) for i in (1, 2, 3)]
    for name, truth in exact.items():
        if isinstance(truth, np.ndarray) and truth.dtype == np.float64 and isinstance(fused.get(name), np.ndarray):
            ours, theirs, *known = (np.linalg.norm(r[name] - truth) for r in (fused, stock, *moved))
            if not ours <= 2 * max(theirs, *known) + 1e-6 * np.linalg.norm(truth) + 1e-6 * np.sqrt(truth.size):
                return False
    return True


def case(number: int, draw: int = 0) -> Case:
    """The case of this number; another draw has other values in the same network and input."""
    weights = np.array(list(WEIGHTS.values()))
    return Case(number, draw, list(USES), weights / weights.sum())


def check(number: int) -> tuple[str | None, bool]:
    """Run a case: what differs, or None; and whether stock operators gave a result (otherwise they raised).

    Values may differ by bad luck (a ReLU's corner), but not with three inputs.
    """
    for draw in range(3):
        one = case(number, draw)
        stock = result(one, False)
        # fifty layers that are each normalised by a handful of values multiply roundings without bound
        tolerance = 0.02 if one.kind == "chain" or one.mode == "eval" else np.inf
        fused = result(one, True)
        told = difference(stock, fused, tolerance)
        if told is None or not told.endswith("values apart"):
            break
        if _no_worse(one, fused, stock):
            told = None
            break
    about = f"{one.use}, {one.kind}, {one.mode}, {one.shape} {one.dtype} {one.layout}"
    return told and f"case {number} ({about}): {told}", not isinstance(stock, str)


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


def sanitized(folder: Path) -> None:
    """Start this program anew with AddressSanitizer in front of everything, and its library; in that, use them."""
    library = folder / "sanitized.so"
    compiler = build.find_compiler()
    if os.environ.get("LD_PRELOAD", "").find("libasan") < 0:
        if not library.exists():  # several pieces of a campaign share it
            build.compile_library(library, compiler, ["-O1", "-g", "-fsanitize=address"])
        names = ("libasan.so", "libstdc++.so.6")
        found = [subprocess.check_output([*compiler, f"-print-file-name={n}"], text=True).strip() for n in names]
        os.environ.update(
            LD_PRELOAD=" ".join(found),
            ASAN_OPTIONS="detect_leaks=0:alloc_dealloc_mismatch=0",  # those are Python's and Paddle's own
            FLAGS_use_system_allocator="1",  # of Paddle: each tensor a piece of its own
            LD_LIBRARY_PATH=str(Path(paddle.__file__).parent / "libs"),  # the sanitizer opens Paddle's libraries for it
        )
        os.execv(sys.executable, [sys.executable, *sys.argv])
    opened = build.open_library(library)
    sys.modules[accelerate.__module__].load_library = lambda say=print: opened
    run.Loan = ExactLoan


def main() -> int:
    """Run cases and print what differs; whether anything does decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--sanitizer", type=Path, metavar="FOLDER")
    words = parser.parse_args()
    if words.sanitizer:
        sanitized(words.sanitizer)
    wrong = answered = 0
    for done, number in enumerate(range(words.start, words.start + words.cases), 1):
        told, answer = check(number)
        answered += answer
        if told:
            wrong += 1
            print(told, flush=True)
        if done % 100 == 0 or done == words.cases:
            print(f"{done} cases from {words.start}: {answered} with a result, {wrong} differ", flush=True)
    return int(bool(wrong) or answered < words.cases // 2)


if __name__ == "__main__":
    sys.exit(main())
