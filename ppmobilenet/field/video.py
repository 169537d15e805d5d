"""Frames of a video file, a camera or a stream, read in a thread of their own.

Of a file every frame is given, in order. Of a live source the newest: what came while the last one was being looked at
is passed over, so that an answer is never of a picture that is long gone; and when the source breaks off it is opened
again, for as long as it takes.
"""

from __future__ import annotations

import datetime
import glob
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from ppmobilenet.errors import DataError, UserError
from ppmobilenet.telling import log

FILES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://")
CAMERA = re.compile(r"camera:(\d{1,3})")
AHEAD = 4  # frames of a file that are decoded before they are asked for
PAUSES = (1, 2, 4, 8, 15, 30)  # seconds between the attempts to open a live source again; the last one repeats
SILENT = 0
# OpenCV 4 and 5 have it in different places
set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
CONVERT = "convert it to H.264 in an mp4"
PATIENCE = 10_000  # milliseconds that a stream may keep us waiting before it counts as broken off


def is_live(source: object) -> bool:
    """Whether a source is a camera (``camera:0``) or a stream."""
    return isinstance(source, str) and (source.startswith("camera:") or source.lower().startswith(STREAMS))


def is_video(source: object) -> bool:
    """Whether a source gives frames: a video file, a camera or a stream."""
    if is_live(source):
        return True
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    return name.lower().endswith(FILES) and not os.path.isdir(name)


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        number: which of the source's frames, from 0.
        seconds: its place in the file; of a live source the seconds since that was opened first.
        time: when it was taken, ISO 8601; None for a file.
        pixels: uint8 BGR ``[H, W, 3]``.
    """

    number: int
    seconds: float
    time: str | None
    pixels: np.ndarray


class _Handover:
    """From the reading thread to the one that asks: in order with little room, or the newest only."""

    def __init__(self, newest: bool):
        self._newest, self._frames = newest, deque(maxlen=1 if newest else None)
        self._changed = threading.Condition()
        self._ended, self._error = False, None
        self.stopped = threading.Event()

    def put(self, frame: Frame) -> None:
        with self._changed:
            while not self._newest and len(self._frames) >= AHEAD and not self.stopped.is_set():
                self._changed.wait()
            self._frames.append(frame)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self.stopped.set()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                while not self._frames and not self._ended:
                    self._changed.wait(0.5)  # with an end to it Ctrl-C is noticed on every system
                if not self._frames:
                    if self._error is not None:
                        raise self._error
                    return
                frame = self._frames.popleft()
                self._changed.notify_all()
            yield frame


def frames(source: str | os.PathLike, rate: float | None = None) -> Iterator[Frame]:
    """Yield a source's frames.

    Args:
        source: a video file, ``camera:N``, or a stream's address (``rtsp://...``).
        rate: frames a second at most; None: of a file all, of a live source as many as are asked for.

    Raises:
        UserError: there is no such camera.
        DataError: the file or the stream cannot be opened, or holds no frame.
    """
    source = os.fspath(source)
    live = is_live(source)
    handover = _Handover(newest=live)
    read = _read_live if live else _read_file
    reader = threading.Thread(
        target=_reading, args=(read, source, _open(source), handover), name="ppmobilenet video", daemon=True
    )
    reader.start()
    due = 0.0
    try:
        for frame in handover:
            if rate and frame.seconds < due - 1e-6:
                continue
            due = max(due + 1 / rate, frame.seconds) if rate else 0.0
            yield frame
    finally:
        handover.stop()


def _reading(read, source: str, capture: cv2.VideoCapture, handover: _Handover) -> None:
    try:
        read(source, capture, handover)
        handover.end()
    except BaseException as error:  # whatever it is, it is raised where the frames are taken
        handover.end(error)


def _read_file(source: str, capture: cv2.VideoCapture, handover: _Handover) -> None:
    rate, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    number, seconds = 0, 0.0
    try:
        while not handover.stopped.is_set():
            there, pixels = capture.read()
            if not there:
                break
            told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # some containers tell no time: then the frames are taken to be evenly spaced
            seconds = told if told > seconds or not number else number / rate if rate > 0 else seconds
            handover.put(Frame(number, seconds, None, pixels))
            number += 1
    finally:
        capture.release()
    if not number and not handover.stopped.is_set():
        raise DataError("the video holds no frame that OpenCV reads", where=source, hint=CONVERT)
    if number < 0.9 * count and not handover.stopped.is_set():
        log.warning("%s: ends after %d of some %d frames: cut short or damaged", source, number, count)


def _read_live(source: str, capture: cv2.VideoCapture | None, handover: _Handover) -> None:
    start, number, failed = time.monotonic(), 0, 0
    while not handover.stopped.is_set():
        there, pixels = capture.read() if capture is not None else (False, None)
        if there:
            failed = 0
            now = datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")
            handover.put(Frame(number, time.monotonic() - start, now, pixels))
            number += 1
            continue
        if capture is not None:
            capture.release()
        pause = PAUSES[min(failed, len(PAUSES) - 1)]
        log.warning("%s: no picture comes; it is opened again in %d s", source, pause)
        failed += 1
        if handover.stopped.wait(pause):
            return
        try:
            capture = _open(source)
        except UserError:
            capture = None
    if capture is not None:
        capture.release()


def _open(source: str) -> cv2.VideoCapture:
    """Open a source.

    Raises:
        UserError: there is no such camera; DataError: it is a file or a stream that cannot be opened.
    """
    if not is_live(source) and not os.path.exists(source):
        raise DataError("the video does not exist", where=source)
    # what OpenCV's backends try and say on the way; that it failed is said below
    before = set_log_level(SILENT)
    try:
        if source.startswith("camera:"):
            capture = cv2.VideoCapture(_camera(source))
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        elif is_live(source):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
            capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        else:
            capture = cv2.VideoCapture(source)
    except cv2.error as error:
        raise DataError(f"OpenCV cannot open it: {error.err}", where=source) from error
    finally:
        set_log_level(before)
    if capture.isOpened():
        return capture
    if source.startswith("camera:"):
        raise _no_camera(source)
    hint = "is the address right, and does the camera answer?" if is_live(source) else CONVERT
    raise DataError(f"OpenCV {cv2.__version__} here cannot open this video", where=source, hint=hint)


def _camera(source: str) -> int:
    if not (found := CAMERA.fullmatch(source)):
        raise UserError(f"{source!r} is no camera", allowed="camera:0, camera:1, ...")
    return int(found[1])


def _no_camera(source: str) -> UserError:
    """Return what to say of a camera that cannot be opened."""
    device = f"/dev/video{_camera(source)}"
    if not sys.platform.startswith("linux"):
        return UserError(f"{source} cannot be opened", hint="is it plugged in, and may this program use it?")
    there = sorted(glob.glob("/dev/video*"))
    if device not in there:
        others = "there are: " + ", ".join(there) if there else "there is no /dev/video*: no camera is plugged in"
        return UserError(f"{source} cannot be opened: {device} is not there", hint=others)
    if not os.access(device, os.R_OK | os.W_OK):
        hint = "sudo usermod -aG video $USER, then log in again"
        return UserError(f"{source} cannot be opened: {device} may not be read by this user", hint=hint)
    hint = "does another program use it, or is it no picture source? " + ", ".join(there)
    return UserError(f"{source} cannot be opened: {device} gives no picture", hint=hint)
