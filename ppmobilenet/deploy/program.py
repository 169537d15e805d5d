"""Paddle's two program formats: saving either, and the static mode that quantization works in."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import paddle
from paddle import nn


def legacy_program():
    """Context in which Paddle 3 builds the old kind of program (``.pdmodel``); Paddle 2 knows no other."""
    try:
        from paddle.pir_utils import OldIrGuard
    except ImportError:
        return nullcontext()
    return OldIrGuard()


def writes_json() -> bool:
    """Whether this Paddle writes the ``.json`` kind (Paddle 3)."""
    return int(paddle.__version__.split(".")[0]) >= 3


@contextmanager
def static_mode() -> Iterator[paddle.static.Executor]:
    """Static mode with the old kind of program and a scope of its own; eager mode afterwards."""
    with legacy_program():
        paddle.enable_static()
        try:
            with paddle.static.scope_guard(paddle.static.Scope()):
                yield paddle.static.Executor(paddle.CPUPlace())
        finally:
            paddle.disable_static()


def save_program(
    layer: nn.Layer, prefix: Path, shape: Sequence[int | None], dtype: str = "float32", legacy: bool = False
) -> None:
    """Write ``<prefix>.json`` or (legacy, and always on Paddle 2) ``<prefix>.pdmodel``, and ``<prefix>.pdiparams``.

    Args:
        layer: in eval mode.
        prefix: path without suffix.
        shape: of the input, None for the batch.
        dtype: of the input.
        legacy: the kind that Paddle 2, opt and quantization read.
    """
    spec = [paddle.static.InputSpec(list(shape), dtype, name="x")]
    with legacy_program() if legacy else nullcontext():
        # clip_extra=False: without it Paddle Lite's opt aborts ("No attributes called threshold found for relu6")
        paddle.jit.save(layer, str(prefix), input_spec=spec, **({"clip_extra": False} if legacy else {}))
    prefix.with_name(prefix.name + ".pdiparams.info").unlink(missing_ok=True)
    _check_written(layer, prefix, legacy)


def _check_written(layer: nn.Layer, prefix: Path, legacy: bool) -> None:
    """Paddle's C++ writers say nothing when the disk is full; a file that was cut short is noticed here."""
    values = layer.state_dict().values()
    least = sum(int(np.prod(value.shape)) * np.dtype(str(value.dtype).rpartition(".")[2]).itemsize for value in values)
    short = prefix.with_name(prefix.name + ".pdiparams").stat().st_size < least
    if not legacy and writes_json():
        try:
            json.loads(prefix.with_name(prefix.name + ".json").read_bytes())
        except ValueError:
            short = True
    if short:
        raise OSError(errno.ENOSPC, "Paddle's files were cut short (is the disk full?)")
