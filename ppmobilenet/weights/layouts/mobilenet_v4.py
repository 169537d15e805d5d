"""MobileNetV4: whose files, and what was published (Qin et al. 2024; timm; PaddleClas)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from ppmobilenet.weights.layouts import AS_BUILT, PADDLE_FILES, Layouts, register
from ppmobilenet.weights.schemes import Scheme

_FUSED = ("fused", "blocks.<s:0>.<i:0>.{conv_exp,bn1}"), ("out", "blocks.<s:0>.<i:0>.{conv_pwl,bn2}")


def _timm(name: str, text: str, *rows: tuple[str, str]) -> Scheme:
    common = (
        ("stem", "{conv_stem,bn1}"),
        ("first", "blocks.<s>.<i>.dw_start.{conv,bn}"),
        ("expand", "blocks.<s>.<i>.pw_exp.{conv,bn}"),
        ("dw", "blocks.<s>.<i>.dw_mid.{conv,bn}"),
        ("out", "blocks.<s>.<i>.pw_proj.{conv,bn}"),
        ("norm", "blocks.<s>.<i>.{,norm}"),
        ("query", "blocks.<s>.<i>.attn.query.proj"),
        ("keydown", "blocks.<s>.<i>.attn.key.{down_conv,norm}"),
        ("valuedown", "blocks.<s>.<i>.attn.value.{down_conv,norm}"),
        ("key", "blocks.<s>.<i>.attn.key.proj"),
        ("value", "blocks.<s>.<i>.attn.value.proj"),
        ("out", "blocks.<s>.<i>.{attn.output.proj,}"),
        ("layerscale", "blocks.<s>.<i>.{,layer_scale}"),
        ("last", "{conv_head,norm_head}"),
    )
    return Scheme(name, text, (*common, *rows), ("classifier",), torch=True, computes={"query_power": 0.0})


SCHEMES = (
    Scheme(
        "paddleclas-v4",
        "PaddleClas MobileNetV4 (also this project's)",
        (
            ("stem", "conv_stem.{conv,bn}"),
            ("out", "blocks.<i>.{conv,bn}"),
            ("fused", "blocks.<i>.conv_exp.{conv,bn}"),
            ("out", "blocks.<i>.conv_pwl.{conv,bn}"),
            ("first", "blocks.<i>.dw_start.{conv,bn}"),
            ("expand", "blocks.<i>.pw_exp.{conv,bn}"),
            ("dw", "blocks.<i>.dw_mid.{conv,bn}"),
            ("out", "blocks.<i>.pw_proj.{conv,bn}"),
            ("norm", "blocks.<i>.{,norm}"),
            ("query", "blocks.<i>.query_proj"),
            ("keydown", "blocks.<i>.key_down_proj.{conv,bn}"),
            ("valuedown", "blocks.<i>.value_down_proj.{conv,bn}"),
            ("key", "blocks.<i>.key_proj"),
            ("value", "blocks.<i>.value_proj"),
            ("out", "blocks.<i>.{proj,}"),
            ("layerscale", "blocks.<i>.{,layer_scale}"),
            ("last", "conv_head.{conv,bn}"),
        ),
        ("classifier",),
    ),
    # timm calls the batch norm of a row's only convolution as that of a fused row's first: the sizes tell which it is
    _timm("timm-v4", "timm mobilenetv4", *_FUSED, ("out", "blocks.<s:4>.<i:0>.{conv,bn1}")),
    _timm("timm-v4-small", "timm mobilenetv4_conv_small", ("out", "blocks.<s>.<i>.{conv,bn1}")),
)

# first convolution; rows as a letter each: C convolution, E fused, U universal, A attention, with the width out
_MEDIUM, _LARGE = "E48 U80 U80 ", "E48 U96 U96 "
SIZES = {
    "conv_small": (32, "C32 C32 C96 C64" + " U96" * 6 + " U128" * 6 + " C960"),
    "conv_medium": (32, _MEDIUM + "U160 " * 8 + "U256 " * 11 + "C960"),
    "conv_large": (24, _LARGE + "U192 " * 11 + "U512 " * 13 + "C960"),
    "hybrid_medium": (
        32,
        _MEDIUM + "U160 " * 4 + "A160 U160 " * 4 + "U256 " * 8 + "A256 U256 " * 4 + "C960",
    ),
    "hybrid_large": (
        24,
        _LARGE + "U192 " * 7 + "A192 U192 " * 4 + "U512 " * 10 + "A512 U512 " * 4 + "C960",
    ),
}


# of each kind of row the units in order, as ``in_order`` names them, and the convolutions' kinds as it gets them
_UNITS = {
    "C": ("out",),
    "E": ("fused", "out"),
    "U": ("first", "expand", "dw", "out"),
    "A": ("norm:norm", "query", "keydown", "valuedown", "key", "value", "out:conv"),
}
_LETTERS = {"C": "([cp])", "E": "(c)(p)", "U": "(d)?(p)(d)?(p)", "A": "(p)(d)?(d)?(p)(p)(p)"}


def _kinds(shapes: Mapping, count: int) -> Iterator[str]:
    """Yield each row's letter, as far as a file's tensors tell it."""
    for i in range(count):
        has = [f"block.{i}.{unit}.weight" in shapes for unit in ("fused", "query", "expand")]
        yield "EAU"[has.index(True)] if any(has) else "C"


def guess(stem: int, outs: list[int], shapes: dict) -> dict | None:
    rows = " ".join(f"{kind}{out}" for kind, out in zip(_kinds(shapes, len(outs)), outs))
    return next(({"size": size} for size, known in SIZES.items() if known == (stem, rows)), None)


def refusal(stem: int, outs: list[int], shapes: dict) -> str | None:
    """Name what is of the family and of no size of the paper."""
    if "".join(_kinds(shapes, len(outs))).strip("C"):
        return (
            f"a MobileNetV4 of {len(outs)} rows, of a first convolution of {stem} channels and widths "
            f"{', '.join(map(str, outs[:5]))}, ...: of the sizes only {', '.join(SIZES)} are known, without a "
            "multiplier, as the paper has them"
        )
    return None


def in_order(kinds: str) -> list[str] | None:
    for size, (_, rows) in SIZES.items():
        rows = rows.split()
        found = re.fullmatch(f"(c){''.join(_LETTERS[row[0]] for row in rows)}(p)", kinds)
        if found is None:
            continue
        letters, names = iter(found.groups()[1:]), ["stem"]
        for i, row in enumerate(rows):
            units = (unit for unit in _UNITS[row[0]] if unit.endswith(":norm") or next(letters))
            names += [f"block.{i}.{unit}" for unit in units]
            if size.startswith("hybrid") and row[0] in "UA":
                names.append(f"block.{i}.layerscale:gamma")
        return [*names, "last"]
    return None


def adapt(arrays: dict[str, np.ndarray], theirs: Mapping[str, float], ours: Mapping[str, float]) -> list[str]:
    """Make attention of another scale compute the same here: the scores' factor is one of the queries' filters.

    ``query_power`` is p where scores are multiplied by heads ** p * dim ** -0.5.
    """
    power = theirs["query_power"] - ours.get("query_power", theirs["query_power"])
    queries = [name for name in arrays if name.endswith(".query.weight")] if power else []
    for name in queries:
        heads = arrays[name].shape[0] // arrays[name.replace(".query.", ".key.")].shape[0]
        arrays[name] = arrays[name] * np.float32(heads**power)
    return [f"queries of {len(queries)} attention layers scaled for this model's attention_scale"] if queries else []


_PC_DOC = "PaddleClas, MobileNetV4.md, at its evaluation's size"


def _row(size: str, *figures) -> tuple:
    return f"MobileNetV4_{size}", {"size": size}, *figures, _PC_DOC, AS_BUILT


LAYOUTS = register(
    Layouts(
        "MobileNetV4",
        SCHEMES,
        guess,
        in_order,
        plain=("query", "key", "value"),
        adapt=adapt,
        refusal=refusal,
        published=(
            _row("conv_small", 3_774_024, 186_005_568, 74.6, 92.1, 3.77, 240),
            _row("conv_medium", 9_715_512, 827_649_984, 79.9, 95.2, 9.72, 1690),
            _row("conv_large", 32_590_864, 2_171_341_312, 83.4, 96.6, 32.59, 8680),
            _row("hybrid_medium", 11_074_648, 941_725_120, 80.5, 95.4, 11.07, 1230),
            _row("hybrid_large", 37_764_624, 2_510_230_016, 83.8, 96.7, 37.76, 10030),
        ),
        # side of the image in each recipe's evaluation, bicubic and whole; what PaddleClas quotes for conv_medium and
        # the hybrids equals timm's accuracy at the smaller size of training
        evaluated={
            "MobileNetV4_conv_small": 256,
            "MobileNetV4_conv_medium": 320,
            "MobileNetV4_conv_large": 448,
            "MobileNetV4_hybrid_medium": 256,
            "MobileNetV4_hybrid_large": 448,
        },
        address=f"{PADDLE_FILES}/legendary_models",
    )
)
