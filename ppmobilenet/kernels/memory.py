"""Memory for the maps that backward needs, kept from step to step.

Fresh memory costs a page fault for every 4 KB, a quarter of a stock training step.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from ctypes import c_float, c_void_p


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


class Loan:
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


class Held(c_float * 1):
    """The number 1, in memory that a tensor shares; what it carries lives until the tensor's memory is freed."""
