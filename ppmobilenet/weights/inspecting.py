"""What a weight file holds: whose naming, which network, each tensor's kind and numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.weights import files, naming
from ppmobilenet.weights.guess import Architecture, guess
from ppmobilenet.weights.layouts import LAYOUTS


@dataclass(frozen=True)
class TensorFacts:
    """One array of a file.

    Attributes:
        key: its name in the file.
        neutral: its place in the network (:mod:`.naming`), or the reason why it has none.
        dtype: for example ``"float32"``.
        shape: as the file keeps it.
        low, high, mean, deviation: of its finite values; NaN where there are none.
        not_finite: how many values are NaN or infinite.
    """

    key: str
    neutral: str
    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    mean: float
    deviation: float
    not_finite: int


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_weights` found; ``str()`` is the page that ``convert_weights --inspect`` prints.

    Attributes:
        path: the file or folder.
        size: in bytes.
        scheme: the naming scheme, or None.
        family: the scheme's, or None.
        text: whose layout that is, or why it is none.
        architecture: the network its shapes belong to, or None.
        bn_folded: its batch norm is folded away.
        tensors: one row an array, in the file's order.
    """

    path: Path
    size: int
    scheme: str | None
    family: str | None
    text: str
    architecture: Architecture | None
    bn_folded: bool
    tensors: tuple[TensorFacts, ...]

    @property
    def dtypes(self) -> dict[str, int]:
        """dtype -> number of arrays."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
        return counts

    def __str__(self) -> str:
        values = sum(int(np.prod(t.shape)) for t in self.tensors)
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        lines = [
            f"file          {self.path} ({self.size / 1e6:.2f} MB)",
            f"naming        {self.scheme or 'unknown'}: {self.text}",
            f"architecture  {self.architecture or 'unknown'}",
            f"batch norm    {'folded away: right in eval mode only' if self.bn_folded else 'as trained'}",
            f"tensors       {len(self.tensors)} ({dtypes}), {values} values",
            f"NaN or inf    {sum(t.not_finite for t in self.tensors)}",
            "",
        ]
        if self.scheme is None:
            del lines[3]
        width = max([len(t.key) for t in self.tensors] + [3])
        lines.append(
            f"{'key':<{width}}  {'shape':<18} {'dtype':<8} {'min':>10} {'max':>10} {'mean':>10} {'std':>10}  place"
        )
        for t in self.tensors:
            shape = "x".join(map(str, t.shape)) or "scalar"
            numbers = " ".join(f"{n:>10.4g}" for n in (t.low, t.high, t.mean, t.deviation))
            bad = f"  {t.not_finite} NaN or inf" if t.not_finite else ""
            lines.append(f"{t.key:<{width}}  {shape:<18} {t.dtype:<8} {numbers}  {t.neutral}{bad}")
        return "\n".join(lines)


def inspect_weights(path: str | os.PathLike, scheme: str | None = None) -> Inspection:
    """Describe a weight file of any kind, also one that is no MobileNet's.

    Args:
        path: as for :func:`ppmobilenet.weights.files.read_weights`.
        scheme: force a naming scheme instead of recognising it.

    Raises:
        UserError: no such file, or a forced scheme that does not read its keys.
        DamagedFileError: it cannot be read.
    """
    source = files.resolve(path)
    arrays = files.read_weights(source)
    size = sum(p.stat().st_size for p in ([source] if source.is_file() else source.iterdir()))
    places: dict[str, str] = {}
    try:
        layout = naming.read_layout(arrays, scheme, source)
    except UserError as error:
        if scheme is not None:
            raise
        found, family, text, architecture, folded = None, None, error.message, None, False
    else:
        neutral, folded = naming.neutral_arrays(layout, arrays)
        folded = folded or naming.norm_is_folded(neutral)
        architecture = guess({name: array.shape for name, array in neutral.items()}, layout.family)
        activation = layout.activation or files.activation_of(source)
        if architecture and activation not in (None, LAYOUTS[layout.family].activation):
            architecture.arguments["activation"] = activation
        found, family, text = layout.scheme, layout.family, layout.text
        places = {**{key: name for name, key in layout.keys.items()}, **layout.ignored}
        places.update({key: f"no key of {layout.scheme}" for key in layout.misfits})
    tensors = tuple(_facts(key, array, places.get(key, "")) for key, array in arrays.items())
    return Inspection(source, size, found, family, text, architecture, folded, tensors)


def _facts(key: str, array: np.ndarray, place: str) -> TensorFacts:
    finite = np.isfinite(array)
    values = array[finite].astype("float64")
    numbers = (values.min(), values.max(), values.mean(), values.std()) if values.size else (float("nan"),) * 4
    return TensorFacts(
        key, place, str(array.dtype), array.shape, *map(float, numbers), int(array.size - np.count_nonzero(finite))
    )
