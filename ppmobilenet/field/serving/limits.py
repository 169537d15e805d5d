"""What one caller may cost the others: bytes, pixels, time, and how many photos are in work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import pixel_size, what_it_is

Result = TypeVar("Result")


class Refusal(UserError):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: what is wrong with it.
        **about: ``allowed``, ``hint``.
    """

    def __init__(self, status: int, message: str, **about: str):
        super().__init__(message, **about)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """See the module.

    Attributes:
        max_bytes: of a photo as it is sent.
        max_pixels: of a photo, by its header, before it is decoded.
        seconds: from a request's first byte to its answer.
        at_once: photos in work at the same time.
        waiting: photos that wait for their turn beside these; one more is told to come again.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    seconds: float = 10.0
    at_once: int = 2
    waiting: int = 64

    def check(self, photo: bytes) -> None:
        """Refuse a photo that is none, or that is too large, before anything decodes it.

        Raises:
            DataError: it is none of a kind that is known here.
            Refusal: it is too large.
        """
        if not photo:
            raise DataError("the photo is empty (0 bytes)")
        if len(photo) > self.max_bytes:
            raise too_large(self.max_bytes)
        size = pixel_size(photo)
        if size is None:
            raise DataError(what_it_is(photo, None))
        if size[0] * size[1] > self.max_pixels:
            raise Refusal(413, f"the photo has {size[0]}x{size[1]} pixels", allowed=f"at most {self.max_pixels} pixels")


def too_large(most: int) -> Refusal:
    return Refusal(413, f"the photo is larger than {most} bytes", allowed=f"at most {most} bytes")


class Desk:
    """Where photos are worked on: a few at once, some more in line, the rest sent away.

    Args:
        limits: how many, and for how long.
    """

    def __init__(self, limits: Limits):
        self._limits, self._inside = limits, 0
        self._pool = ThreadPoolExecutor(limits.at_once, thread_name_prefix="ppmobilenet serve")

    def __enter__(self) -> Desk:
        """Take a place in the line; from here on it is this caller's.

        Raises:
            Refusal: the line is full.
        """
        most = self._limits.at_once + self._limits.waiting
        if self._inside >= most:
            raise Refusal(503, f"{most} photos are in work or in line", hint="send this one again in a second")
        self._inside += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._inside -= 1

    async def do(self, work: Callable[[], Result], until: float) -> Result:
        """Return what ``work`` returns, from a thread.

        Raises:
            Refusal: it was not done in time; what was not begun by then is never begun.
        """
        doing = asyncio.wrap_future(self._pool.submit(work))
        try:
            return await asyncio.wait_for(doing, max(0.0, until - asyncio.get_running_loop().time()))
        except asyncio.TimeoutError:
            raise Refusal(
                503, f"no answer within {self._limits.seconds:g} seconds", hint="send this one again later"
            ) from None
