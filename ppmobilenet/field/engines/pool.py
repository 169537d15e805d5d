"""Any number of threads on engines that serve one call at a time."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.field.engines.base import Engine
from ppmobilenet.telling import log

# Seconds after two calls met in which a caller counts as one of several: the threads of an engine that has all
# processors go on spinning for up to a fifth of a second and would take them from the others.
MEETING = 0.5


class EnginePool:
    """A caller that is alone gets the wide engine, which uses several threads for one call.

    Callers that meet get lanes: engines of one thread each, opened one by one as they are needed, up to ``limit``; who
    finds none free waits for the next. Without lanes they are answered by the wide engine in one thread: its library
    keeps threads for each thread that calls it, which would go on spinning in each other's way. A process that is
    forked opens its engines anew at its first call.

    Args:
        wide: the engine of a caller that is alone.
        open_wide: opens it anew in a forked child.
        open_lane: opens an engine of one thread; None: all calls go through the wide one, one after the other.
        limit: lanes at most.
    """

    def __init__(
        self, wide: Engine, open_wide: Callable[[], Engine], open_lane: Callable[[], Engine] | None, limit: int
    ):
        self._open_wide, self._open_lane, self._wanted = open_wide, open_lane, limit
        self._reset(wide)
        _POOLS.add(self)

    def _reset(self, wide: Engine | None) -> None:
        self._wide = wide
        self._changed = threading.Condition()
        self._wide_free, self._opening = True, False
        self._lanes, self._first = 0, None
        self._free: list[Engine] = []
        self._limit = self._wanted if self._open_lane else 0
        self._inside, self._met = 0, -MEETING
        self._waiting: deque[object] = deque()
        self._one_thread: ThreadPoolExecutor | None = None

    @property
    def wide(self) -> Engine:
        """The engine of a caller that is alone."""
        with self._changed:
            if self._wide is None:  # a forked child
                self._wide = self._open_wide()
            return self._wide

    @property
    def has_lanes(self) -> bool:
        """Whether several calls can run at the same time."""
        return self._limit > 0

    def __call__(self, batch: np.ndarray, lane: bool = False) -> np.ndarray:
        """Run an engine on a batch; ``lane``: the caller is one of several."""
        engine, is_wide = self._take(lane)
        try:
            if self._limit == 0 and time.monotonic() - self._met < MEETING:
                return self._in_one_thread(engine, batch)
            return engine(batch)
        finally:
            with self._changed:
                self._inside -= 1
                if is_wide:
                    self._wide_free = True
                else:
                    self._free.append(engine)
                self._changed.notify_all()

    def _in_one_thread(self, engine: Engine, batch: np.ndarray) -> np.ndarray:
        if self._one_thread is None:  # who is here holds the engine, so nobody else is
            self._one_thread = ThreadPoolExecutor(1)
        answer = self._one_thread.submit(engine, batch)
        try:
            return answer.result()
        finally:
            wait([answer])  # who is interrupted gives the engine back only when it stands still

    def _take(self, lane: bool) -> tuple[Engine, bool]:
        """Return an engine for one call, and whether it is the wide one. Who came first is first."""
        with self._changed:
            wide = self.wide
            now = time.monotonic()
            if self._inside:
                self._met = now
            self._inside += 1
            lane = self._limit > 0 and (lane or now - self._met < MEETING)
            ticket = object()
            self._waiting.append(ticket)
            try:
                while True:
                    if self._waiting[0] is not ticket:
                        pass
                    elif lane and self._free:
                        return self._free.pop(), False
                    elif lane and self._lanes < self._limit and not self._opening:
                        self._opening = True
                        break
                    # who waits for a lane that is being opened need not stand idle
                    elif self._wide_free and (not lane or self._opening):
                        self._wide_free = False
                        return wide, True
                    self._changed.wait()
                    lane = lane and self._limit > 0
            except BaseException:  # interrupted while it waited
                self._inside -= 1
                raise
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        engine = self._new_lane()
        return (engine, False) if engine else self._take(True)

    def _new_lane(self) -> Engine | None:
        """Open a lane for this caller; None where that fails, and those that are there have to do."""
        engine = None
        try:
            engine = self._first.another() if self._first else self._open_lane()
        except UserError as error:
            log.warning("no further engine could be opened, %d answer: %s", max(1, self._lanes), error)
        finally:
            with self._changed:
                self._opening = False
                if engine is None:
                    self._limit = self._lanes
                    self._inside -= 1
                else:
                    self._first = self._first or engine
                    self._lanes += 1
                self._changed.notify_all()
        return engine

    def _forked(self) -> None:
        # Their libraries' threads, and Lite's pipe, are the parent's: nothing here may run or close them.
        # An engine that was in use at the fork is held by a thread that is not there any more.
        for engine in (self._wide, self._first, *self._free):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
        self._reset(None)


_POOLS: weakref.WeakSet[EnginePool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
