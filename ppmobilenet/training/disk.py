"""Files that appear whole or not at all, and the proof that they still are what was written.

A checkpoint is a folder: its files are written and synced under a temporary name, a manifest with their sha256 comes
last, then one rename makes it a checkpoint. Everything goes through the few calls of ``os`` here, which is what the
fault campaigns of tools/chaos.py break one by one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ppmobilenet import files
from ppmobilenet.errors import DamagedFileError

MANIFEST = "manifest.json"
CHUNK = 1 << 20
# what a file system without hard links answers
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)


class HashedFile:
    """A new file whose sha256 is known when it is complete."""

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._hash, self._pending, self.size = hashlib.sha256(), bytearray(), 0

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes; small pieces are collected."""
        if len(data) < CHUNK:
            self._pending += data
            if len(self._pending) >= CHUNK:
                self._flush()
        else:
            self._flush()
            self._out(memoryview(data))

    def _flush(self) -> None:
        self._out(memoryview(bytes(self._pending)))
        self._pending.clear()

    def _out(self, data: memoryview) -> None:
        self._hash.update(data)
        self.size += len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def close(self, sync: bool = True) -> str:
        """Bring the file to the disk and return its sha256."""
        try:
            if sync:
                self._flush()
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
        return self._hash.hexdigest()


def write_folder(target: Path, contents: Mapping[str, Callable[[HashedFile], None]], facts: Mapping) -> None:
    """Write a folder of files with their manifest.

    Args:
        target: must not exist.
        contents: name -> what writes the content.
        facts: goes into the manifest beside the hashes.

    Raises:
        OSError: nothing is left behind but a folder with a leading dot, at most.
    """
    temporary = files.beside(target)
    os.mkdir(temporary)
    try:
        listed = {}
        for name, write in contents.items():
            digest, size = _write_file(temporary / name, write)
            listed[name] = {"sha256": digest, "bytes": size}
        text = json.dumps({**facts, "files": listed}, indent=1).encode()
        _write_file(temporary / MANIFEST, lambda file: file.write(text))
        files.sync(temporary)
        os.rename(temporary, target)
        files.sync(target.parent)
    except BaseException:
        files.remove(temporary)
        raise


def _write_file(path: Path, write: Callable[[HashedFile], None]) -> tuple[str, int]:
    file = HashedFile(path)
    try:
        write(file)
    except BaseException:
        file.close(sync=False)
        raise
    return file.close(), file.size


def give_name(source: Path, target: Path) -> None:
    """Let ``target`` be the same file as ``source``: a hard link, or a copy where the file system has none."""
    temporary = files.beside(target)
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(source, "rb") as file:
                _write_file(temporary, lambda out: _copy(file, out))
        os.replace(temporary, target)
    finally:
        files.remove(temporary)  # where it did not get its name


def _copy(source, target: HashedFile) -> None:
    while data := source.read(CHUNK):
        target.write(data)


def read_manifest(path: Path) -> dict:
    """Read a manifest.

    Raises:
        DamagedFileError: it is absent or no manifest.
    """
    try:
        manifest = json.loads(path.read_bytes())
        for name, entry in manifest["files"].items():
            if os.path.basename(name) != name or not isinstance(entry["sha256"], str):
                raise ValueError(f"the entry {name!r}")
        return manifest
    except OSError as error:
        raise DamagedFileError(f"no manifest: {error.strerror}", where=path) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"no manifest of a checkpoint: {error}", where=path) from error


def verify(entries: Mapping[str, Mapping], place: Callable[[str], Path]) -> None:
    """Compare files with a manifest's entries.

    Args:
        entries: the manifest's.
        place: where a name of it lies.

    Raises:
        DamagedFileError: a file is absent or altered.
    """
    for name, entry in entries.items():
        path = place(name)
        try:
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while data := file.read(CHUNK):
                    digest.update(data)
        except OSError as error:
            raise DamagedFileError(f"cannot be read: {error.strerror}", where=path) from error
        if digest.hexdigest() != entry["sha256"]:
            raise DamagedFileError("is not what was written (sha256)", where=path)
