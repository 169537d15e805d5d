"""A run of fused layers as one differentiable operation.

Mirrors ``src/run.h``. The maps that backward needs live in ``memory.py``'s memory, which is kept from step to step.

Paddle's PyLayer is not used: a second backward over its node is a segmentation fault, and it cannot be told which of
its gradients a partial gradient leaves out. Instead a few of Paddle's own operators on one number stand in the graph
(:func:`_graph`), so that retaining, freeing, pruning, hooks and every refusal are Paddle's own, and hooks on them give
the gradients.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.base import core

from ppmobilenet.kernels.memory import Held, Loan
from ppmobilenet.kernels.plan import DENSE, DEPTHWISE, POINTWISE, SAME, Step, Unsupported

MAX_THREADS = 1024  # as in src/layout.h
FAR = 2.0**40  # see _norm_in_graph

KINDS = {DENSE: 3, POINTWISE: 1, DEPTHWISE: 2}
STEM = 0  # a dense convolution that reads the pixels as they are
GATE, SCALE, DROP = 1, 2, 4  # bits of ``after``
WEIGHT, GAMMA, BETA, SQUEEZE, SQUEEZE_OFFSET, EXCITE, EXCITE_OFFSET, CHANNEL_SCALE, TRAINED = range(9)
NORM, GATES = 1 << GAMMA | 1 << BETA, sum(1 << bit for bit in range(SQUEEZE, TRAINED))


class _Layer(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("kind", "c_in", "c_out", "kernel", "stride", "before_h", "before_w")),
        *((name, c_int32) for name in ("h_in", "w_in", "h_out", "w_out", "activation", "residual", "running")),
        *((name, c_int32) for name in ("needs_gradient", "after", "squeezed")),
        *((name, c_float) for name in ("slope", "epsilon", "momentum")),
        *((name, c_void_p) for name in ("weight", "gamma", "beta", "mean", "variance")),
        *((n, c_void_p) for n in ("squeeze", "squeeze_offset", "excite", "excite_offset", "channel_scale", "kept")),
        ("gradients", c_void_p * TRAINED),
    ]


class _Run(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        *((name, c_int32) for name in ("count", "images", "threads", "keep", "input_gradient")),
    ]


class _Sizes(Structure):
    _fields_ = [(name, c_int64) for name in ("saved", "scratch_forward", "scratch_backward")]


@dataclass
class Engine:
    """The compiled library, which of its instruction sets to use, and on how many threads.

    ``forward`` and ``known``: the network's own forward, and the kinds of layers (see
    :func:`~ppmobilenet.kernels.plan.kinds`), that were compared with this engine; nothing else runs on it.
    """

    library: ctypes.CDLL
    instruction_set: int
    threads: int
    forward: object = None
    known: frozenset = frozenset()

    def __deepcopy__(self, memo):
        return self  # a copied model runs on the same library

    def __reduce__(self):
        return _no_engine, ()  # a pickled model is a stock one: who loads it may have no library


def _no_engine() -> None:
    return None


def _address(tensor: paddle.Tensor, shape: Sequence[int]) -> int:
    """Where a tensor's values lie, if they are what the library will take them for.

    Raises:
        Unsupported: another type, shape, layout or place, or no memory at all.
    """
    if not (
        tensor._is_initialized()
        and tensor.dtype == paddle.float32
        and tuple(tensor.shape) == tuple(shape)
        and tensor.is_contiguous()
        and tensor.place.is_cpu_place()
    ):
        raise Unsupported(f"a tensor that is not dense float32 {list(shape)} on the CPU")
    return tensor.data_ptr()


def _before(step: Step, size: int) -> int:
    """Zeros in front of a map's row or column."""
    if step.padding != SAME:
        return step.padding
    return max((-(-size // step.stride) - 1) * step.stride + step.kernel - size, 0) // 2


class _Call:
    """One forward pass through ``steps``, and any number of backward passes."""

    def __init__(self, engine: Engine, steps: Sequence[Step], x: paddle.Tensor):
        self.engine, self.steps, self.x = engine, steps, x
        self.layers = (_Layer * len(steps))()
        images, channels, height, width = x.shape
        if channels != steps[0].c_in:
            raise Unsupported(f"{channels} channels, not {steps[0].c_in}")
        self.input = _address(x, x.shape)
        for layer, step in zip(self.layers, steps):
            norm, wide = step.norm, (step.c_out,)
            layer.kind, layer.kernel, layer.stride = KINDS[step.kind], step.kernel, step.stride
            layer.activation, layer.residual, layer.running = step.activation, step.residual, step.running
            layer.c_in, layer.c_out, layer.h_in, layer.w_in = step.c_in, step.c_out, height, width
            layer.before_h, layer.before_w = _before(step, height), _before(step, width)
            height, width = -(-height // step.stride), -(-width // step.stride)
            layer.h_out, layer.w_out = height, width
            layer.epsilon, layer.momentum = norm._epsilon, norm._momentum
            layer.mean, layer.variance = (_address(t, wide) for t in step.statistics)
            self._point(layer, step)
            trained = [p is not None and not p.stop_gradient for p in step.trained]
            layer.needs_gradient = sum(1 << bit for bit in range(TRAINED) if trained[bit])
            layer.after = GATE * bool(step.gate) + SCALE * bool(step.scale) + DROP * bool(step.drop)
            if step.gate:
                layer.squeezed, layer.slope = step.trained[SQUEEZE].shape[0], step.gate._slope
            if not layer.running and images * height * width == 1:
                raise Unsupported("batch statistics of one value: Paddle passes it through")
        first = steps[0].kind == DENSE and x.stop_gradient and channels < 16
        if first and all(step.residual != -1 for step in steps):
            self.layers[0].kind = STEM
        self.shape = [images, steps[-1].c_out, height, width]
        self.run = _Run(self.layers, len(steps), images, engine.threads, 0, 0)
        self.sizes = _Sizes()
        self._kept: list[paddle.Tensor] = []

    @staticmethod
    def _point(layer: _Layer, step: Step) -> None:
        """Tell the library where the step's parameters are by now."""
        wide = (step.c_out,)
        weight, gamma, beta, squeeze, squeeze_offset, excite, excite_offset, channel_scale = step.trained
        layer.weight = _address(weight, weight.shape)
        layer.gamma, layer.beta = _address(gamma, wide), _address(beta, wide)
        if step.gate:
            squeezed = squeeze.shape[0]
            layer.squeeze = _address(squeeze, (squeezed, *wide, 1, 1))
            layer.squeeze_offset = _address(squeeze_offset, (squeezed,))
            layer.excite, layer.excite_offset = _address(excite, (*wide, squeezed, 1, 1)), _address(excite_offset, wide)
        if step.scale:
            layer.channel_scale = _address(channel_scale, wide)

    @property
    def differentiable(self) -> bool:
        return not self.x.stop_gradient or any(layer.needs_gradient for layer in self.layers)

    def prepare(self, keep: bool) -> None:
        """Choose whether backward may follow, and ask the library whether it takes this run."""
        self.run.keep, self.run.input_gradient = keep, keep and not self.x.stop_gradient
        fault = self.engine.library.ppm_sizes(ctypes.byref(self.run), ctypes.byref(self.sizes))
        if fault:
            raise Unsupported(f"the library refuses the run (fault {fault} in src/run.h)")

    def forward(self, saved: Loan, out: paddle.Tensor) -> None:
        """Compute into ``out``, which is dense and of ``shape``."""
        with paddle.no_grad():
            for layer, step in zip(self.layers, self.steps):
                if step.drop:
                    self._kept.append(step.drop.factors(self.run.images))
                    layer.kept = _address(self._kept[-1], (self.run.images, 1, 1, 1))
        scratch = Loan(self.sizes.scratch_forward)
        self._enter("forward", self.input, saved.address, scratch.address, _address(out, self.shape))
        scratch.release()

    def trained(self) -> list[tuple[tuple[int, int], paddle.Tensor]]:
        """All parameters with gradients but those of batch norms, each with its step and its bit."""
        return [
            ((k, bit), p)
            for k, (layer, step) in enumerate(zip(self.layers, self.steps))
            for bit, p in enumerate(step.trained)
            if (layer.needs_gradient & ~NORM) >> bit & 1
        ]

    def norms(self) -> list[tuple[int, int]]:
        """The steps whose batch norm has gradients, each with its channels."""
        return [(k, step.c_out) for k, step in enumerate(self.steps) if self.layers[k].needs_gradient & NORM]

    def backward(self, saved: c_void_p, gradient: paddle.Tensor) -> dict[object, paddle.Tensor]:
        """Return the gradients by what they belong to.

        Those of (step, bit), of ``"vectors"`` and of ``"input"`` in one row each; of (step, ``"norm"``) as
        :func:`_norm_in_graph` wants them.
        """
        found: dict[object, paddle.Tensor] = {}
        for layer, step in zip(self.layers, self.steps):
            self._point(layer, step)
        trained = self.trained()
        vectors = [(key, p.size) for key, p in trained if p.ndim == 1]
        if vectors:
            found["vectors"] = _fresh(sum(size for _, size in vectors))
            at = found["vectors"].data_ptr()
            for (k, bit), size in vectors:
                self.layers[k].gradients[bit] = at
                at += 4 * size
        for (k, bit), p in trained:
            if p.ndim > 1:
                found[k, bit] = _fresh(p.size)
                self.layers[k].gradients[bit] = found[k, bit].data_ptr()
        norms = self.norms()
        widths = [width for _, width in norms]
        of_norms = [_fresh(sum(widths)) for _ in (BETA, GAMMA)] if norms else []
        for bit, row in zip((BETA, GAMMA), of_norms):
            at = row.data_ptr()
            for k, width in norms:
                self.layers[k].gradients[bit] = at
                at += 4 * width
        into = None
        if self.run.input_gradient:
            found["input"] = _fresh(self.x.size)
            into = found["input"].data_ptr()
        gradient = dense(gradient)
        scratch = Loan(self.sizes.scratch_backward)
        arrived = _address(gradient, self.shape)
        self._enter("backward", self.input, saved, scratch.address, arrived, c_void_p(into))
        scratch.release()
        if norms:
            offsets, scales = of_norms
            both = paddle.split(paddle.stack([offsets, scales / FAR]), widths, axis=1)
            found.update({(k, "norm"): rows for (k, _), rows in zip(norms, both)})
        return found

    def _enter(self, name: str, *memory) -> None:
        enter = getattr(self.engine.library, f"ppm_{name}")
        memory = [c_void_p(at) if isinstance(at, int) else at for at in memory]
        fault = enter(self.engine.instruction_set, ctypes.byref(self.run), *memory)
        if fault:
            raise RuntimeError(f"the fused operators refuse their own {name} pass (fault {fault} in src/run.h)")

    def versions(self) -> list[int]:
        """Of everything that backward depends on: what changed in place since cannot be differentiated."""
        found, reached = [], not self.x.stop_gradient
        for layer, step in zip(self.layers, self.steps):
            weights = layer.needs_gradient & 1
            if reached or weights:
                found.append(step.trained[WEIGHT])
                if step is self.steps[0]:
                    found.append(self.x)
            reached = reached or bool(weights)
            if reached or layer.needs_gradient & NORM:
                found += [step.trained[GAMMA], step.trained[BETA], *step.statistics]
            reached = reached or bool(layer.needs_gradient & NORM)
            if reached or layer.needs_gradient & GATES:
                found += [step.trained[bit] for bit in (SQUEEZE, EXCITE, CHANNEL_SCALE)]
            reached = reached or bool(layer.needs_gradient)
        return [t.inplace_version for t in found if t is not None]


def _fresh(size: int) -> paddle.Tensor:
    return paddle.empty([size], dtype="float32")


def dense(x: paddle.Tensor) -> paddle.Tensor:
    """The tensor, copied if it is a view with gaps."""
    return x if x.is_contiguous() else x.contiguous()


class _Gradients:
    """What the hooks of one call's graph do: the first one runs the library, the others hand out what it found."""

    def __init__(self, call: _Call, saved: c_void_p):
        self._call, self._saved = call, saved
        self._versions = call.versions()
        self.guard = paddle.ones([1], dtype="float32")
        self._found: dict[object, paddle.Tensor] = {}

    def arrived(self, gradient: paddle.Tensor) -> None:
        call = self._call
        try:
            sound = call.versions() == self._versions and call.input == _address(call.x, call.x.shape)
            self._found = call.backward(self._saved, gradient.detach()) if sound else {}
        except Unsupported:  # a parameter that is of another type or shape by now
            sound = False
        if not sound:  # an operator that saved the guard refuses it, as stock operators refuse what was changed
            with paddle.no_grad():
                self.guard.zero_()

    def of(self, key: object):
        """The hook of the tensor that ``key`` belongs to."""
        return lambda gradient: self._found.pop(key, None)


@functools.lru_cache(maxsize=256)
def _two_pixels(channels: int) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """A map [2, channels] of pixels at 0 and ``FAR``, a mean of 0 and a variance of 1."""
    near, one = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    return paddle.to_tensor(np.stack([near, one * FAR])), paddle.to_tensor(near), paddle.to_tensor(one)


def _norm_in_graph(scale: paddle.Tensor, offset: paddle.Tensor) -> paddle.Tensor:
    """Let Paddle's own batch norm hand out the gradients of a scale and an offset.

    It decides who gets one (asked for one of the two alone, it gives none). It normalises two pixels, at 0 and ``FAR``:
    from gradients of b and g / ``FAR`` there it makes b + g / ``FAR``, which is b, for the offset and g for the scale.
    """
    x, mean, variance = _two_pixels(scale.shape[0])
    return F.batch_norm(x, mean, variance, scale, offset, epsilon=0.0)


def _graph(call: _Call, saved: Loan) -> paddle.Tensor:
    """Return the run's output, not yet computed, with a graph behind it that ends in all that is differentiated.

    Backward, from the output on: the hook of ``full`` takes the whole gradient; what goes on is one number, through an
    operator that holds the saved maps (until Paddle frees the graph), one that refuses changed tensors, and one that
    has no second derivative (as the stock network has none); at each parameter a hook puts the gradient in its place.
    """
    zero = paddle.zeros([1], dtype="float32")
    held = Held(1.0)
    held.loan = saved
    holder = core.eager.Tensor(np.frombuffer(held, np.float32), paddle.CPUPlace(), False, True, "", True)
    gradients = _Gradients(call, saved.address)
    trained = call.trained()
    ends = [(key, p) for key, p in trained if p.ndim > 1]
    vectors = [p for _, p in trained if p.ndim == 1]
    if call.run.input_gradient:
        ends.append(("input", call.x))
    rows = [(key, paddle.reshape(p, [-1])) for key, p in ends]
    rows += [((k, "norm"), _norm_in_graph(*call.steps[k].trained[GAMMA : BETA + 1])) for k, _ in call.norms()]
    if vectors:
        rows.append(("vectors", paddle.concat(vectors)))
    for key, row in rows:
        zero._share_underline_tensor_to(row)  # a number with the row's place in the graph
        row.register_hook(gradients.of(key))
    # of two operands Paddle leaves out the one that a partial gradient does not need; add_n goes to all
    token = functools.reduce(paddle.add, [row for _, row in rows]) * gradients.guard * holder
    full = paddle.expand(paddle.flatten(token), call.shape)
    full.register_hook(gradients.arrived)
    return paddle.reshape(full, call.shape)  # apart from full: hooks of the user's come before ours


def _check_gradients(call: _Call) -> None:
    """Leave to stock operators what their backward pass answers in its own way."""
    for layer, step in zip(call.layers, call.steps):
        if not layer.running and not step.norm.training:
            raise Unsupported("batch statistics in evaluation: Paddle's gradient takes the running ones there")


def execute(engine: Engine, steps: Sequence[Step], x: paddle.Tensor) -> paddle.Tensor:
    """Run float32 ``x`` [N, C, H, W] through ``steps``; the result takes part in automatic differentiation.

    Steps that normalise with batch statistics update their running ones, as the stock layers do.

    Raises:
        Unsupported: before anything was computed, if the library cannot take the input or the parameters.
    """
    call = _Call(engine, steps, dense(x))
    keep = paddle.is_grad_enabled() and call.differentiable
    if keep:
        _check_gradients(call)
    call.prepare(keep)
    saved = Loan(call.sizes.saved)
    out = _graph(call, saved) if keep else paddle.empty(call.shape, dtype="float32")
    call.forward(saved, out)
    if not keep:
        saved.release()
    return out
