"""The other processes of a run: who of them is gone.

Paddle's own messages say that a connection broke, on a CPU after it, on a GPU after half an hour, and where a machine
lost its power nothing comes at all. So the processes of a run watch each other: the first one listens, each of the
others holds a connection to it, and all give a sign of life every few seconds. A connection that ends without a word,
or a silence of SILENCE seconds, means that a process is gone; the first one tells the others which.

The thread that watches does not touch the training. A process that waits for one that is gone is woken by Paddle's
exception, see :func:`naming`; where none comes its connections are closed, which gives one; and where that does not
help either (NCCL) the thread says the line and ends the process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ppmobilenet.errors import EXIT_LOST, LostProcess, Stopped, UserError
from ppmobilenet.telling import log

BEAT, SILENCE = 2.0, 25.0  # seconds: together with the two below less than a minute
UNTIL_CLOSED, UNTIL_ENDED = 5.0, 25.0  # seconds that a process has to stop by itself, once one is known to be gone
JOINING = 60.0


class Watch:
    """This process's view of the others. There is one at a time, as there is one group of Paddle's processes.

    Args:
        rank: of this process.
        names: of every process, for people.
        links: rank -> connection; of the first process to all others, of the others to the first.

    Attributes:
        lost: what is to be said of the process that is gone first; None while all are there.
    """

    def __init__(self, rank: int, names: Sequence[str], links: dict[int, socket.socket]):
        self._rank, self._names, self._links = rank, names, links
        self.lost: str | None = None
        self._known, self._over = threading.Event(), threading.Event()
        self._heard, self._rest = dict.fromkeys(links, time.monotonic()), dict.fromkeys(links, b"")
        self._thread = threading.Thread(target=self._work, name="peers", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> str | None:
        """Return what is known of a process that is gone, waiting for it."""
        self._known.wait(seconds)
        return self.lost

    def close(self, word: str) -> None:
        """Leave: the others hear a word, and this process watches no longer."""
        self._over.set()
        self._thread.join()
        for link in self._links.values():
            _send(link, word)
            link.close()

    def _work(self) -> None:
        with selectors.DefaultSelector() as ready:
            for rank, link in self._links.items():
                ready.register(link, selectors.EVENT_READ, rank)
            beaten = 0.0
            while not self._over.is_set() and self.lost is None:
                if time.monotonic() - beaten > BEAT:
                    beaten = time.monotonic()
                    for link in self._links.values():
                        _send(link, "here")
                for key, _ in ready.select(BEAT / 4):
                    self._hear(key.data, ready)
                for rank, when in self._heard.items():
                    if time.monotonic() - when > SILENCE:
                        self._lose(rank, f"has been silent for {SILENCE:.0f} s")
        if self.lost is not None:
            self._end()

    def _hear(self, rank: int, ready: selectors.BaseSelector) -> None:
        try:
            data = self._links[rank].recv(4096)
        except OSError:
            data = b""
        self._heard[rank] = time.monotonic()
        *lines, self._rest[rank] = (self._rest[rank] + data).split(b"\n")
        for line in lines:
            word, _, text = line.decode("utf-8", "replace").partition(" ")
            if word == "left":  # it is done, and says nothing more
                ready.unregister(self._links[rank])
                del self._heard[rank]
                return
            if word == "gone":  # the first process has it from its own connection
                self._learn(text)
            elif word == "failed":
                self._lose(rank, f"stopped: {text}")
        if not data:
            self._lose(rank, "is gone")

    def _lose(self, rank: int, what: str) -> None:
        self._learn(f"{self._names[rank]} {what}")

    def _learn(self, text: str) -> None:
        if self.lost is None:
            self.lost = text
            for link in self._links.values():
                _send(link, f"gone {text}")
            self._known.set()

    def _end(self) -> None:
        """See to it that this process ends."""
        if self._over.wait(UNTIL_CLOSED):
            return
        close_connections({name.partition("(")[2].rpartition(":")[0] for name in self._names})
        if self._over.wait(UNTIL_ENDED):
            return
        os.write(2, f"\nstopped: {LostProcess(self.lost)}\n".encode())
        os._exit(EXIT_LOST)


_watch: Watch | None = None


@contextmanager
def watching(rank: int, world: int, add_up: Callable[[np.ndarray, int], np.ndarray]) -> Iterator[None]:
    """Watch the other processes inside the block.

    Args:
        rank, world: this process and the number of processes.
        add_up: the sum of an array over all processes.
    """
    global _watch
    if world == 1:
        yield
        return
    endpoints = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    endpoints = endpoints if len(endpoints) == world else [""] * world
    names = [f"process {number} ({endpoint})" for number, endpoint in enumerate(endpoints)]
    try:
        links = _joined(rank, world, endpoints[0].rpartition(":")[0], add_up)
    except OSError as error:
        raise UserError(
            f"the processes cannot connect to each other: {error}",
            where=endpoints[0] or None,
            hint="machines that train together need each other's ports, without a firewall between them",
        ) from error
    _watch, word = Watch(rank, names, links), "left"
    try:
        yield
    except (LostProcess, Stopped):
        raise
    except BaseException as error:
        word = f"failed {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise
    finally:
        _watch.close(word)
        _watch = None


@contextmanager
def naming() -> Iterator[None]:
    """Say which process is gone where Paddle says that a connection broke.

    Raises:
        LostProcess: one is.
    """
    try:
        yield
    except RuntimeError as error:
        lost = _watch.wait(SILENCE + BEAT) if _watch else None
        if lost is None:
            raise
        log.debug("%s", error)
        raise LostProcess(lost) from error


def _joined(rank: int, world: int, host: str, add_up: Callable) -> dict[int, socket.socket]:
    """Connect the processes: each of the others to the first, who knows them by a number that it gave them."""
    listener = socket.create_server((host, 0), backlog=world) if rank == 0 else None
    told = [listener.getsockname()[1], int.from_bytes(os.urandom(6), "little")] if listener else [0, 0]
    port, secret = map(int, add_up(np.array(told, np.float64), world))
    if listener is None:
        link = socket.create_connection((host, port), timeout=JOINING)
        _send(link, f"{rank} {secret}")
        return {0: _ready(link)}
    links: dict[int, socket.socket] = {}
    with listener:
        listener.settimeout(JOINING)
        while len(links) < world - 1:
            link, _ = listener.accept()
            link.settimeout(JOINING)
            first = link.recv(64).partition(b"\n")[0].decode("ascii", "replace").split()
            if len(first) == 2 and first[1] == str(secret) and first[0].isdecimal():
                links[int(first[0])] = _ready(link)
            else:
                link.close()  # somebody else on the network
    return links


def _ready(link: socket.socket) -> socket.socket:
    link.settimeout(BEAT)  # of one who does not read any more the others need not hear less often
    return link


def _send(link: socket.socket, word: str) -> None:
    with contextlib.suppress(OSError):  # that it is gone is heard, not said
        link.sendall(f"{word}\n".encode())


def close_connections(hosts: set[str]) -> None:
    """End this process's connections to some machines (Linux), so that what waits for an answer gets an error."""
    addresses = {found[4][0] for host in hosts if host for found in socket.getaddrinfo(host, None)}
    for number in map(int, os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ()):
        with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(number)) as link:
            if link.getpeername()[0] in addresses:
                link.shutdown(socket.SHUT_RDWR)
