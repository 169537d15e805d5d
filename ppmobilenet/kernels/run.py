"""A run of fused layers as one differentiable operation.

Mirrors ``src/run.h``. The maps that backward needs live in memory that is kept from step to step: fresh memory costs
a page fault for every 4 KB, a quarter of a stock training step.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import paddle
from paddle.autograd import PyLayer

from ppmobilenet.kernels.plan import Step


class _Layer(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("kind", "c_in", "c_out", "stride", "h_in", "w_in", "h_out", "w_out")),
        *((name, c_int32) for name in ("activation", "residual", "running", "needs_gradient")),
        ("epsilon", c_float),
        ("momentum", c_float),
        *((name, c_void_p) for name in ("weight", "gamma", "beta", "mean", "variance")),
        *((name, c_void_p) for name in ("weight_grad", "gamma_grad", "beta_grad")),
    ]


class _Run(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        *((name, c_int32) for name in ("count", "images", "threads", "keep", "input_gradient")),
    ]


class _Sizes(Structure):
    _fields_ = [(name, c_int64) for name in ("saved", "scratch_forward", "scratch_backward")]


class _Block:
    """Memory on huge pages where the system gives them."""

    def __init__(self, size: int):
        self.size, self.busy = size, True
        self._map = mmap.mmap(-1, max(size, 1))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError:  # a kernel without huge pages
                pass
        self.address = ctypes.addressof(c_float.from_buffer(self._map)) if size else None


class _Pool:
    """Blocks to take and give back; what is too small for its taker is replaced."""

    def __init__(self):
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> _Block:
        size = -(-size // 4096) * 4096
        with self._lock:
            free = [block for block in self._blocks if not block.busy]
            fitting = [block for block in free if size <= block.size]
            if fitting:
                block = min(fitting, key=lambda b: b.size)
            else:
                if free:
                    self._blocks.remove(max(free, key=lambda b: b.size))
                block = _Block(size)
                self._blocks.append(block)
            block.busy = True
            return block

    def __len__(self) -> int:
        return len(self._blocks)


POOL = _Pool()


class _Loan:
    """A block taken from the pool; goes back when released, or forgotten with a graph that nobody differentiates."""

    def __init__(self, size: int):
        self._block = POOL.take(size)
        self.address = c_void_p(self._block.address)

    def release(self) -> None:
        if self._block is not None:
            self._block.busy = False
            self._block = None

    def __del__(self):
        self.release()


@dataclass
class Engine:
    """The compiled library, which of its instruction sets to use, and on how many threads."""

    library: ctypes.CDLL
    instruction_set: int
    threads: int

    def __deepcopy__(self, memo):
        return self  # a copied model runs on the same library


class _Call:
    """One forward pass through ``steps``, and its backward pass."""

    def __init__(self, engine: Engine, steps: list[Step], x: paddle.Tensor):
        self.engine, self.steps, self.x = engine, steps, x
        self.layers = (_Layer * len(steps))()
        images, _, height, width = x.shape
        for layer, step in zip(self.layers, steps):
            conv, norm = step.conv, step.norm
            layer.kind, layer.stride, layer.activation = step.kind, step.stride, step.activation
            layer.c_in, layer.c_out = step.c_in, step.c_out
            layer.h_in, layer.w_in = height, width
            height, width = -(-height // step.stride), -(-width // step.stride)
            layer.h_out, layer.w_out = height, width
            layer.residual, layer.running = step.residual, step.running
            layer.epsilon, layer.momentum = norm._epsilon, norm._momentum
            layer.weight, layer.gamma, layer.beta = (p.data_ptr() for p in (conv.weight, norm.weight, norm.bias))
            layer.mean, layer.variance = norm._mean.data_ptr(), norm._variance.data_ptr()
            layer.needs_gradient = sum(
                bit for bit, p in zip((1, 2, 4), (conv.weight, norm.weight, norm.bias)) if not p.stop_gradient
            )
        self.shape = [images, self.steps[-1].c_out, height, width]
        self.run = _Run(self.layers, len(steps), images, engine.threads, 0, 0)

    def forward(self, keep: bool) -> paddle.Tensor:
        self.run.keep, self.run.input_gradient = keep, keep and not self.x.stop_gradient
        self.sizes = _Sizes()
        self.engine.library.ppm_sizes(ctypes.byref(self.run), ctypes.byref(self.sizes))
        self.saved, scratch = _Loan(self.sizes.saved), _Loan(self.sizes.scratch_forward)
        out = paddle.empty(self.shape, dtype="float32")
        self.engine.library.ppm_forward(
            self.engine.instruction_set,
            ctypes.byref(self.run),
            c_void_p(self.x.data_ptr()),
            self.saved.address,
            scratch.address,
            c_void_p(out.data_ptr()),
        )
        scratch.release()
        if not keep:
            self.saved.release()
        return out

    def backward(self, gradient: paddle.Tensor) -> list[paddle.Tensor | None]:
        """Gradients of the input and of each step's weight, scale and offset, None where none is wanted.

        Called once: Paddle's PyLayer does not survive a second ``backward(retain_graph=True)``.
        """
        gradients: list[paddle.Tensor | None] = [
            paddle.empty(self.x.shape, dtype="float32") if self.run.input_gradient else None
        ]
        for layer, step in zip(self.layers, self.steps):
            for field, p in zip(("weight", "gamma", "beta"), step.parameters):
                fresh = None if p.stop_gradient else paddle.empty(p.shape, dtype="float32")
                setattr(layer, f"{field}_grad", fresh.data_ptr() if fresh is not None else None)
                gradients.append(fresh)
        gradient = dense(gradient)
        scratch = _Loan(self.sizes.scratch_backward)
        self.engine.library.ppm_backward(
            self.engine.instruction_set,
            ctypes.byref(self.run),
            c_void_p(self.x.data_ptr()),
            self.saved.address,
            scratch.address,
            c_void_p(gradient.data_ptr()),
            c_void_p(gradients[0].data_ptr() if gradients[0] is not None else None),
        )
        scratch.release()
        self.saved.release()
        return gradients


def dense(x: paddle.Tensor) -> paddle.Tensor:
    """The tensor, copied if it is a view with gaps."""
    return x if x.is_contiguous() else x.contiguous()


class _Fused(PyLayer):
    @staticmethod
    def forward(ctx, x, call, *parameters):
        ctx.call = call
        return call.forward(keep=True)

    @staticmethod
    def backward(ctx, gradient):
        return tuple(ctx.call.backward(gradient))


def execute(engine: Engine, steps: list[Step], x: paddle.Tensor) -> paddle.Tensor:
    """Run float32 ``x`` [N, C, H, W] through ``steps``; the result takes part in automatic differentiation.

    Steps that normalise with batch statistics update their running ones, as the stock layers do.
    """
    call = _Call(engine, steps, dense(x))
    parameters = [p for step in steps for p in step.parameters]
    if paddle.is_grad_enabled() and not (x.stop_gradient and all(p.stop_gradient for p in parameters)):
        return _Fused.apply(call.x, call, *parameters)
    return call.forward(keep=False)
