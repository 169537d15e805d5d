"""The network as a program: what is deployed of it, Paddle's two formats, and quantization's static mode."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.base.layer_helper import LayerHelper

from ppmobilenet import models

try:  # the context in which Paddle 3 builds the old kind of program (.pdmodel); Paddle 2 knows no other
    from paddle.pir_utils import OldIrGuard as legacy_program
except ImportError:
    legacy_program = nullcontext

# Paddle rewrites the source of every layer before it follows it into a program, which is most of an export's time; the
# branches and loops of our networks are of Python alone, and running them is enough
paddle.jit.ignore_module([models])


class Deployed(nn.Layer):
    """The network as it is deployed: pixels or normalised input -> the declared output.

    Args:
        model: ``[N, 3, H, W]`` -> logits ``[N, class_num]``.
        softmax: give probabilities.
        normalise: the NormalizeImage operator to compute inside the graph, with ``layout`` ``"NCHW"`` or ``"NHWC"`` of
            a uint8 input; None: the input is normalised float32 NCHW.
        several: a photo has several labels: a sigmoid gives their probabilities.
    """

    def __init__(
        self,
        model: nn.Layer,
        softmax: bool,
        normalise: Mapping | None = None,
        layout: str = "NCHW",
        several: bool = False,
    ):
        super().__init__()
        self.several = several
        self.model, self.softmax, self.nhwc, self.normalised = model, softmax, layout == "NHWC", normalise is None
        if normalise is not None:
            self.scale = float(normalise["scale"])
            for name in ("mean", "std"):
                self.register_buffer(name, paddle.to_tensor(normalise[name], "float32").reshape([1, 3, 1, 1]))

    def pixels(self, x):
        """What the network reads: normalised float32 NCHW."""
        if self.normalised:
            return x
        x = x.astype("float32")
        if self.nhwc:
            x = x.transpose([0, 3, 1, 2])
        return (x * self.scale - self.mean) / self.std

    def forward(self, x):
        x = self.model(self.pixels(x))
        if not self.softmax:
            return x
        return _sigmoid(x) if self.several else nn.functional.softmax(x, axis=-1)


def _sigmoid(x):
    """A sigmoid, also in the old kind of program, where Paddle 3's own function takes values of the new kind only."""
    if not isinstance(x, paddle.static.Variable):
        return nn.functional.sigmoid(x)
    helper = LayerHelper("sigmoid")
    out = helper.create_variable_for_type_inference(x.dtype)
    helper.append_op(type="sigmoid", inputs={"X": [x]}, outputs={"Out": [out]})
    return out


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


def read_program(model: Path) -> paddle.static.Program:
    """Return the program of a ``.pdmodel``."""
    with static_mode():
        return paddle.static.Program.parse_from_string(model.read_bytes())


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


def read_operators(model: Path, parameters: Path) -> tuple[list[tuple[str, dict, dict, dict]], dict[str, np.ndarray]]:
    """Return a ``.pdmodel``'s operators in running order, and its parameters by name.

    Returns:
        For each operator its type, the names of its inputs by slot, of its outputs by slot, and its attributes.
    """
    with static_mode() as executor:
        program, _, _ = paddle.static.load_inference_model(
            str(model.parent), executor, model_filename=model.name, params_filename=parameters.name
        )
        scope = paddle.static.global_scope()
        stored = [value.name for value in program.list_vars() if value.persistable]
        values = {name: np.array(scope.find_var(name).get_tensor()) for name in stored if name not in ("feed", "fetch")}
        operators = [
            (
                op.type,
                {slot: op.input(slot) for slot in op.input_names if op.input(slot)},
                {slot: op.output(slot) for slot in op.output_names if op.output(slot)},
                {name: op.attr(name) for name in op.attr_names if not name.startswith("op_")},
            )
            for op in program.global_block().ops
        ]
    return operators, values
