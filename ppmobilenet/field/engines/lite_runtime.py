"""Paddle Lite's x86 runtime: a process of its own behind a pipe, because its Python environment is another one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import IO

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.field.engines import lite_env
from ppmobilenet.field.engines.base import Engine
from ppmobilenet.field.engines.lite_file import read_version


class PaddleLite(Engine):
    """A process that holds the model (its Python runtime always uses one thread); it ends with the last reference."""

    backend, library = "lite", "Paddle Lite's x86 runtime"

    def _open(self) -> None:
        read_version(self.files[0])
        self._python = lite_env.lite_python()
        self._start()

    def _start(self) -> None:
        self._log = _log_file()
        worker = Path(__file__).with_name("lite_worker.py")
        self._process = subprocess.Popen(
            [str(self._python), str(worker), "run", str(self.files[0])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log or subprocess.DEVNULL,
        )
        weakref.finalize(self, _close, self._process, os.getpid())

    def another(self) -> PaddleLite:
        return type(self)(self.package, self.form, self.threads)

    def _failed(self) -> UserError:
        self._process.kill()  # what stands in the pipe belongs to a call that failed
        code, tail = self._process.wait(), ""
        if self._log:
            self._log.seek(0)
            tail = "\n    ".join(self._log.read().strip().splitlines()[-8:])
        return UserError(
            f"{self.library} ended ({code}):\n    {tail or '(it said nothing)'}",
            where=self.files[0],
            hint="the next call starts it again; if it ends again, the .nb is damaged: export again",
        )

    def _run(self, batch: np.ndarray) -> np.ndarray:
        if self._process.poll() is not None:  # it was killed, for want of memory perhaps
            self._start()
        # one photo a run, as on the board
        return np.concatenate([self._one(batch[i : i + 1]) for i in range(len(batch))])

    def _one(self, values: np.ndarray) -> np.ndarray:
        stdin, stdout = self._process.stdin, self._process.stdout
        try:
            stdin.write((" ".join([values.dtype.name, *map(str, values.shape)]) + "\n").encode())
            stdin.write(values.tobytes())
            stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        shape = [int(n) for n in stdout.readline().split()[1:]]
        content = stdout.read(int(np.prod(shape)) * 4) if shape else b""
        if not shape or len(content) < int(np.prod(shape)) * 4:
            raise self._failed()
        return np.frombuffer(content, np.float32).reshape(shape)


def _log_file() -> IO[str] | None:
    """A file for what the process says; None where there is no place for one."""
    try:
        return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    except OSError:
        return None


def _close(process: subprocess.Popen, owner: int) -> None:
    if os.getpid() != owner:  # a forked child ends: the process goes on answering its parent
        return
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
