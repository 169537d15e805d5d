"""A package's folder is replaced whole, in one step, or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppmobilenet.errors import UserError
from ppmobilenet.field.package import read_json
from ppmobilenet.machine import process_lives

_CANNOT_WRITE = {
    getattr(errno, name)
    for name in ("ENOENT", "ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "EIO", "ENAMETOOLONG", "ENOTDIR")
}


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say disk-full, read-only and the like as a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise UserError(
            f"cannot write {target}: {error.strerror or error}",
            hint="nothing was changed there; free space or rights are needed, or another folder (--output)",
        ) from error


_OURS = ("package.json", "inference.yml", "golden", "int8")


def _refuse_foreign(target: Path) -> None:
    """A folder is replaced whole, so it may hold nothing that no export wrote."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target} is not a folder", hint="choose another with --output")
    if not target.is_dir():
        return
    known = set()
    if (target / "package.json").is_file():
        try:
            known = {entry["path"].split("/")[0] for entry in read_json(target / "package.json")["files"]}
        except (UserError, KeyError, TypeError):
            known = set()
    foreign = [
        p.name
        for p in sorted(target.iterdir())
        if p.name not in known and p.name not in _OURS and not p.name.startswith("inference") and p.suffix != ".nb"
    ]
    if foreign:
        raise UserError(
            f"{target} holds files that no export wrote ({', '.join(foreign[:3])}{', ...' if foreign[3:] else ''}); "
            "an export replaces its folder whole",
            hint="choose an empty or new folder (--output, or -o Global.save_inference_dir=...)",
        )


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (Linux renameat2); False where the system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchange = -100, 2
    return call(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange) == 0


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Give a new folder to write into; when the block ends well it becomes ``target``, in one step.

    What stood at ``target`` (only an earlier export is accepted) stays untouched until then, and for good if the block
    fails; the new folder is then removed.

    Raises:
        UserError: the target cannot be written or holds foreign files.
    """
    target = Path(os.path.abspath(os.path.expanduser(target)))
    _refuse_foreign(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{target.name}.partial-*"):  # of an export that was killed
            pid = left.name.rpartition("partial-")[2].split("-")[0]
            if pid.isdigit() and not process_lives(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
        if target.is_dir() and not os.access(target, os.W_OK):
            raise PermissionError(13, "Permission denied")
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-{os.getpid()}-", dir=target.parent))
    try:
        with writing(target):
            umask = os.umask(0)
            os.umask(umask)
            new.chmod(0o777 & ~umask)
            yield new
            _sync(new)
            if not target.exists():
                os.rename(new, target)
            elif not _exchange(new, target):
                old = new.with_name(new.name + "-old")
                os.rename(target, old)
                try:
                    os.rename(new, target)
                except OSError:
                    os.rename(old, target)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            parent = os.open(target.parent, os.O_RDONLY)
            os.fsync(parent)
            os.close(parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # after an exchange this is the old package
