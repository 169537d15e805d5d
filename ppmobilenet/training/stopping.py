"""Being told to stop, and stopping well."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ppmobilenet.errors import EXIT_SIGINT, EXIT_SIGTERM

# SIGUSR1 is what batch systems send some time before they kill
CODES = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM, signal.SIGUSR1: EXIT_SIGTERM}


class Stop:
    """Whether the run was asked to stop.

    Attributes:
        number: of the signal; 0 while nobody asked.
    """

    number = 0

    @property
    def exit_code(self) -> int:
        return CODES.get(self.number, EXIT_SIGTERM)


@contextmanager
def listening() -> Iterator[Stop]:
    """Take SIGINT, SIGTERM and SIGUSR1 inside the block: the first asks to stop, the second stops at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread gets signals; whoever runs us in another one handles them
        return

    def handle(number: int, frame: object) -> None:
        if stop.number:
            # not sys.exit: no waiting for threads, workers and half-written files; a new file has no name yet
            os._exit(CODES[number])
        stop.number = number
        os.write(2, f"\n{signal.Signals(number).name}: saving after this step; once more stops at once\n".encode())

    before = {number: signal.signal(number, handle) for number in CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
