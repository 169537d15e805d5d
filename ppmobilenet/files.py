"""Files and folders that appear whole or not at all: written under a temporary name beside their place, brought to the
disk, then given their name in one step. What was there stays until then, and for good if the writing fails.

What a writer that was killed has left is removed by the next one of the same place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ppmobilenet.errors import UserError
from ppmobilenet.machine import process_lives

if os.name == "nt":
    import msvcrt
else:
    import fcntl

HINT = "nothing was changed there; free space or rights are needed, or another place"
A_DAY = 24 * 3600
# what a user can mend; anything else is a fault of ours
_CANNOT_WRITE = {
    getattr(errno, name)
    for name in (
        *("ENOENT", "ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "EIO", "ENAMETOOLONG", "ENOTDIR"),
        *("EEXIST", "EISDIR", "EBUSY", "ELOOP"),
    )
    if hasattr(errno, name)  # Windows has no quota
}


@contextmanager
def said(target: str | os.PathLike, *, where: str | None = None, hint: str = HINT) -> Iterator[None]:
    """Say disk-full, read-only and the like as a UserError that names the place.

    Args:
        target: what is being written.
        where: the option or key that named it.
        hint: what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise UserError(f"cannot write {target}: {error.strerror or error}", where=where, hint=hint) from error


def beside(target: Path) -> Path:
    """Return a new temporary name beside a place, after removing what killed writers of that place left.

    On a file system of several machines only a machine's own processes are known to be gone; a name of another one
    is taken for left after a day.
    """
    host = re.sub(r"\W", "_", socket.gethostname())
    start = _partial(target.name)
    names: list[str] = []
    with contextlib.suppress(PermissionError):  # a folder that may be written and not listed
        names = os.listdir(target.parent)
    for name in names:
        if not name.startswith(start):
            continue
        pid, _, rest = name[len(start) :].partition("-")
        left = target.parent / name
        with contextlib.suppress(OSError):  # another one removes it, or it is not ours to remove
            own = rest.startswith(f"{host}-") and pid.isdigit()
            if not process_lives(int(pid)) if own else time.time() - left.lstat().st_mtime > A_DAY:
                remove(left)
    return target.with_name(f"{start}{os.getpid()}-{host}-{os.urandom(4).hex()}")


def _partial(name: str) -> str:
    """Return how the temporary names of a file begin."""
    return f".{name}.partial-"


def is_partial(path: Path, name: str) -> bool:
    """Whether a file is one of this name in the making, or what a killed writer has left of it."""
    return path.name.startswith(_partial(name)) and path.is_file()


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def settle(temporary: Path, target: Path) -> None:
    """Give a finished file its name. For files that outlive a failure under a name of their own, to be continued."""
    sync(temporary)
    os.replace(temporary, target)
    sync(target.parent)


@contextmanager
def locked(file: IO) -> Iterator[None]:
    """Hold the lock of an open file inside the block; it ends with the process, whatever happens to it."""
    if os.name != "nt":
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
        return
    file.seek(0)
    while True:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            break
        except OSError:  # it gives up after ten seconds
            continue
    try:
        yield
    finally:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


@contextmanager
def whole_file(
    path: str | os.PathLike,
    mode: str = "wb",
    *,
    newline: str | None = None,
    where: str | None = None,
    hint: str = HINT,
) -> Iterator[IO]:
    """Give a file to write into; when the block ends well it is at ``path``, in one step. Its folder is made.

    A text is UTF-8, and what has no letters there is escaped. A link is followed, a device or a pipe written directly.

    Args:
        path: of the file.
        mode: ``"wb"`` or ``"w"``.
        newline: as :func:`open` takes it.
        where: the option or key that named it, for the message.
        hint: what to do, for the message.

    Raises:
        UserError: it cannot be written; what was there still is.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": newline}
    path = Path(path)
    with said(path, where=where, hint=hint):
        if path.exists() and (not path.is_file() or path.is_relative_to("/dev")) and not path.is_dir():
            with open(path, mode, **text) as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(target)
        try:
            with open(temporary, mode.replace("w", "x"), **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes, **about) -> None:
    """Write a file as a whole; see :func:`whole_file`."""
    with whole_file(path, **about) as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str, **about) -> None:
    """Write a text file as a whole; see :func:`whole_file`."""
    with whole_file(path, "w", **about) as file:
        file.write(text)


@contextmanager
def whole_folder(target: str | os.PathLike, *, hint: str = HINT) -> Iterator[Path]:
    """Give a new folder to write into; when the block ends well it is ``target``, in one step.

    Args:
        target: a folder that stands there is replaced.
        hint: what to do, for the message.

    Raises:
        UserError: it cannot be written; what was there still is.
    """
    target = Path(os.path.abspath(os.path.expanduser(target)))
    with said(target, hint=hint):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
        new = beside(target)
        new.mkdir()
        try:
            yield new
            for path in [*new.rglob("*"), new]:
                sync(path)
            _take_place(new, target)
            sync(target.parent)
        finally:
            remove(new)  # after an exchange this is what stood there


def _take_place(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):
        old = beside(target)
        os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(old, target)
            raise
        remove(old)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (Linux renameat2); False where the system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    at_cwd, exchange = -100, 2
    return call(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange) == 0
