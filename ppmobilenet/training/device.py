"""Where to compute: device, processes, mixed precision."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.distributed.fleet.utils.hybrid_parallel_util import (
    fused_allreduce_gradients_with_group as _mean_over_processes,
)

from ppmobilenet.config.parts import Amp
from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import UserError
from ppmobilenet.telling import log
from ppmobilenet.training.peers import naming

if sys.platform.startswith("linux"):
    import fcntl

SIOCGIFADDR = 0x8915  # Linux's sockios.h: the address of an interface
# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MESSAGE = 2**27  # bytes of gradients that travel together


def set_device(name: str) -> str:
    """Choose the device that ``Global.device`` names and return it as Paddle calls it (``"gpu:0"``).

    Raises:
        UserError: it is not there, with what to type instead.
    """
    kind = name.partition(":")[0]
    if kind == "gpu":
        if not paddle.is_compiled_with_cuda():
            raise UserError(
                "Global.device is gpu, and this Paddle is built for CPUs only",
                hint="-o Global.device=cpu, or on a machine with an NVIDIA GPU: pip install 'ppmobilenet[gpu]'",
            )
        if paddle.device.cuda.device_count() == 0:
            raise UserError(
                "Global.device is gpu, and no GPU is visible",
                hint="-o Global.device=cpu, or check nvidia-smi and CUDA_VISIBLE_DEVICES",
            )
    try:
        paddle.set_device(name)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"Global.device is {name}, which this Paddle does not have", hint="-o Global.device=cpu"
        ) from error
    if kind == "cpu":
        keep_freed_memory()
    return paddle.get_device()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of handing each activation back to the system.

    Touching fresh pages costs a CPU training step about a fifth of its time.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # musl has other rules
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def images_of(batch: Batch) -> paddle.Tensor:
    """Return a batch's float32 images [N, 3, H, W] on the device; uint8 ones, a quarter of it, travel as such."""
    left, images = batch.normalization, paddle.to_tensor(batch.images)
    if left is None:
        return images
    mean, std = (paddle.to_tensor(v.reshape(1, 3, 1, 1)) for v in (left.mean, left.std))
    return (images.astype("float32").transpose([0, 3, 1, 2]) * float(left.scale) - mean) / std


def start_processes() -> tuple[int, int]:
    """Join the other processes of ``paddle.distributed.launch``, if any; return (rank, number of processes)."""
    world = dist.get_world_size()
    if world > 1 and not dist.is_initialized():
        own = os.environ.get("PADDLE_CURRENT_ENDPOINT", "")
        if interface := interface_of(own.rpartition(":")[0]):
            # gloo takes the address of the machine's name, which is 127.0.1.1 on Debian
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        try:
            dist.init_parallel_env()
        except RuntimeError as error:
            raise UserError(
                f"the {world} processes cannot connect to each other: {error}",
                where=own or None,
                hint="machines that train together need each other's ports, without a firewall between them; "
                "`ip address` names the network to use where there are several: export GLOO_SOCKET_IFNAME=eth0",
            ) from error
    return dist.get_rank(), world


def interface_of(host: str) -> str | None:
    """Return the name of this machine's network interface with an address (Linux); None where there is none."""
    if not (host and sys.platform.startswith("linux")):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                found = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == host:
                    return name
    return None


def sum_over_processes(values: np.ndarray, world: int) -> np.ndarray:
    """Return the element-wise sum of every process's float64 values."""
    if world == 1:
        return values
    tensor = paddle.to_tensor(np.asarray(values, np.float64))
    with naming():
        dist.all_reduce(tensor)
        return tensor.numpy()


def add_up_counts(counts: Mapping[str, int | np.ndarray], world: int) -> dict[str, int | np.ndarray]:
    """Return a metric's counts over all processes, whole numbers as such."""
    if world == 1 or not counts:
        return dict(counts)
    flat = sum_over_processes(np.concatenate([np.ravel(v).astype(np.float64) for v in counts.values()]), world)
    parts = np.split(flat, np.cumsum([np.size(v) for v in counts.values()])[:-1])
    return {
        name: type(value)(part[0]) if np.ndim(value) == 0 else part.reshape(np.shape(value))
        for (name, value), part in zip(counts.items(), parts)
    }


def share_statistics(model: nn.Layer, average: Mapping[str, paddle.Tensor], world: int) -> None:
    """Give every process the batch norm statistics of the first, which are those that are saved.

    Args:
        model: the network; its statistics are what is not trained of it.
        average: of the network over time, or empty; its statistics are averages of those.
        world: number of processes.
    """
    if world == 1:
        return
    with naming(), paddle.no_grad():
        # not model.buffers(): Paddle makes statistics that have names parameters that are not trained
        for key, tensor in model.state_dict().items():
            if tensor.stop_gradient:
                dist.broadcast(tensor, src=0)
                if key in average:
                    dist.broadcast(average[key], src=0)


def share_gradients(model: nn.Layer, world: int) -> None:
    """Replace the gradients that this process has added up by their mean over all processes.

    A CPU's way. Paddle's DataParallel does the same from inside of the backward pass, where a connection that breaks
    ends the whole process before anything can be saved or said.
    """
    with naming(), paddle.no_grad():
        _mean_over_processes([p for p in model.parameters() if not p.stop_gradient], None, MESSAGE, 1 / world)


class Precision:
    """Mixed precision as a config's ``AMP`` section asks, where the device has it.

    Attributes:
        scaler: of the loss; disabled where AMP is off.
    """

    def __init__(self, amp: Amp, device: str):
        self.on = amp.use_amp and not device.startswith("cpu")
        self.level = amp.level
        if amp.use_amp and not self.on:
            log.info("AMP.use_amp: this device (%s) has no mixed precision; computing in float32", device)
        self.in_eval = self.on and (amp.use_fp16_test or self.level == "O2")
        self._promote = amp.use_promote
        self.scaler = paddle.amp.GradScaler(
            enable=self.on,
            init_loss_scaling=float(amp.scale_loss),
            use_dynamic_loss_scaling=amp.use_dynamic_loss_scaling,
        )

    def decorate(self, model: nn.Layer, optimizer):
        """Return both ready for level O2; unchanged otherwise."""
        if not self.on or self.level != "O2":
            return model, optimizer
        return paddle.amp.decorate(models=model, optimizers=optimizer, level="O2", save_dtype="float32")

    def cast(self, training: bool = True):
        """Return the context to compute in."""
        if not (self.on if training else self.in_eval):
            return nullcontext()
        return paddle.amp.auto_cast(level=self.level, use_promote=self._promote)

    def within(self, network: nn.Layer) -> Callable[[paddle.Tensor], paddle.Tensor]:
        """Return the network as a function that computes as training does."""

        def forward(images: paddle.Tensor) -> paddle.Tensor:
            with self.cast():
                return network(images)

        return forward
