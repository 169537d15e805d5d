"""Work on what a source gives, in order, each result as soon as it is there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

WAITING = object()


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def in_order(sources: Iterable, work: Callable[[int, object], object], workers: int, ahead: int) -> Iterator:
    """Yield ``work(number, source)`` for each source, in order.

    The sources are read in a thread of their own, so that a result need not wait for the next source to arrive (a
    camera's next frame, a folder that is being filled). Where nothing is under way and the next source is awaited,
    :data:`WAITING` is yielded once, for a caller who gathers results: nothing will come soon.

    Args:
        sources: may be endless; what it raises is raised here, after the results of all before.
        work: called in one of ``workers`` threads.
        workers: threads.
        ahead: sources read at most beyond the result that was taken last.
    """
    arrived: queue.SimpleQueue[Future | _End] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(ahead), threading.Event()
    is_slow = not isinstance(sources, Sequence)  # of a list everything is there

    def read() -> None:
        error = None
        try:
            for number, source in enumerate(sources):
                room.acquire()
                if stopped.is_set():
                    return
                arrived.put(pool.submit(work, number, source))
        except BaseException as raised:  # whatever it is, it is raised where the results are taken
            error = raised
        arrived.put(_End(error))

    with ThreadPoolExecutor(workers) as pool:
        # not one of the pool's threads: those are waited for, and a camera that is gone gives no frame to end with
        threading.Thread(target=read, name="ppmobilenet sources", daemon=True).start()
        try:
            while True:
                if is_slow and arrived.empty():
                    yield WAITING
                item = arrived.get()
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                result = item.result()
                room.release()
                yield result
        finally:
            stopped.set()
            room.release()
            while not arrived.empty():
                item = arrived.get()
                if isinstance(item, Future):
                    item.cancel()
