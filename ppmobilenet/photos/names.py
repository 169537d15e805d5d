"""Which files are photos: the one place that decides it, for lists that are made, data sets that are read, predictions.

A photo is what OpenCV decodes here, told by its suffix; what else lies in a folder is counted, so that it can be said.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2

from ppmobilenet.errors import DataError
from ppmobilenet.photos.shards import find_member, find_shards, is_shards
from ppmobilenet.telling import log

# a suffix that OpenCV writes if it can read the format -> the suffixes that such files have
FORMATS = {
    ".jpg": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    ".png": (".png",),
    ".bmp": (".bmp", ".dib"),
    ".webp": (".webp",),
    ".gif": (".gif",),
    ".tif": (".tif", ".tiff"),
    ".jp2": (".jp2", ".j2k", ".j2c", ".jpf", ".jpx"),
    ".avif": (".avif",),
    ".ppm": (".ppm", ".pgm", ".pbm", ".pnm"),
}
# what systems and archives put beside photos, besides names that begin with a full stop (`._*`, `.DS_Store`)
JUNK = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini"}
SHOWN = 8  # suffixes that are counted by name


@cache
def photo_suffixes() -> tuple[str, ...]:
    """Return the suffixes, in lower case, of the photos that this machine's OpenCV decodes."""
    return tuple(suffix for probe, group in FORMATS.items() if cv2.haveImageWriter(f"a{probe}") for suffix in group)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left there by a system or an archive."""
    return name.startswith(".") or name.lower() in JUNK


class Found(NamedTuple):
    """What lies below a folder.

    Attributes:
        names: of the photos, below the folder and with ``/``, sorted folder by folder.
        left_out: what is no photo: suffix (or what it is) -> how many.
    """

    names: list[str]
    left_out: Counter

    def said(self, folder: object) -> str:
        """Return a line for the user about what was left out, empty if nothing was."""
        if not self.left_out:
            return ""
        counts = self.left_out.most_common()
        some = ", ".join(f"{count} {kind}" for kind, count in counts[:SHOWN])
        if len(counts) > SHOWN:
            some += f", {sum(count for _, count in counts[SHOWN:])} of other kinds"
        return f"{folder}: left out {some} (OpenCV {cv2.__version__} here reads {' '.join(photo_suffixes())})"


def find_photos(folder: str | os.PathLike) -> Found:
    """Search a folder through for photos, as :func:`walk_photos` does, and return all of them.

    Raises:
        DataError: a folder cannot be read.
    """
    left_out: Counter = Counter()
    return Found(list(walk_photos(folder, left_out)), left_out)


def walk_photos(folder: str | os.PathLike, left_out: Counter) -> Iterator[str]:
    """Yield the photos' names as they stand in :class:`Found`, holding one folder's names at a time.

    Links to folders are followed right below it, where classes are, not deeper.

    Args:
        folder: to search through.
        left_out: receives the counts of what is no photo.

    Raises:
        DataError: a folder cannot be read.
    """
    waiting = [("", iter(_entries(folder, "")))]
    while waiting:
        below, entries = waiting[-1]
        entry = next(entries, None)
        if entry is None:
            waiting.pop()
            continue
        suffix = os.path.splitext(entry.name)[1].lower()
        kind = _kind(entry, follow=not below)
        if is_hidden(entry.name):
            left_out["hidden"] += 1
        elif kind == "folder":
            deeper = f"{below}{entry.name}/"
            waiting.append((deeper, iter(_entries(folder, deeper))))
        elif kind:
            left_out[kind] += 1
        elif suffix in photo_suffixes():
            yield below + entry.name
        else:
            left_out[suffix[:12] or "without a suffix"] += 1


def _entries(folder: str | os.PathLike, below: str) -> list[os.DirEntry]:
    place = os.path.join(folder, below)
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror or error}", where=place) from error


def _kind(entry: os.DirEntry, follow: bool) -> str:
    """Return what an entry is if it is no file; a link to nothing counts as one, whose reading then says so."""
    try:
        if entry.is_dir(follow_symlinks=follow):
            return "folder"
        if entry.is_file() or not os.path.exists(entry.path):
            return ""
        return "links to folders" if entry.is_dir() else "special files"
    except OSError:  # a link to itself
        return ""


def list_photos(source: str | os.PathLike, infer_list: str | os.PathLike | None = None) -> Sequence[str]:
    """Return the photos that a file, a folder (searched through) or a list file names, sorted as PaddleClas does.

    A folder of shards, its ``index.json`` or one of its tars names the photos in there, in their order.

    What a folder holds besides is logged, by suffix.

    Args:
        source: a photo, a folder, shards, or with ``infer_list`` the folder that its paths are relative to.
        infer_list: text file, one path a line, optionally followed by a label.

    Raises:
        DataError: nothing is there.
    """
    source = os.fspath(source)
    if infer_list:
        return _listed(source, infer_list)
    shards = find_shards(source)
    if shards is not None:
        return shards
    if os.path.isdir(source):
        found = find_photos(source)
        said = found.said(source)
        if not found.names:
            raise DataError(
                f"there is no photo below {source!r}",
                allowed="files ending in " + " ".join(photo_suffixes()),
                hint=instead_of_tars(source) if found.left_out[".tar"] else said.partition(": ")[2] or None,
            )
        if said:
            log.warning("%s", said)
        return sorted(os.path.join(source, name) for name in found.names)
    if not os.path.exists(source) and find_member(source) is None:
        raise DataError(f"{source!r} does not exist", hint="give a photo or a folder of photos")
    return [source]


def instead_of_tars(folder: str) -> str:
    """Return what to do where a folder holds tars in place of photos, and is none of shards itself."""
    inside = (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
    shards = [path for path in inside if os.path.isdir(path) and is_shards(path)]
    if shards:
        return f"give {' or '.join(shards)}"
    return f"ppmobilenet pack {folder} writes the index that these tars lack"


def _listed(folder: str, infer_list: str | os.PathLike) -> list[str]:
    if not os.path.isfile(infer_list):
        raise DataError(f"the list file {os.fspath(infer_list)!r} does not exist", where="Infer.infer_list")
    try:
        lines = [line.strip() for line in lines_of(Path(infer_list).read_bytes().decode("utf-8-sig"))]
    except OSError as error:
        raise DataError(f"the list cannot be read: {error.strerror}", where=infer_list) from error
    except UnicodeDecodeError as error:
        raise not_utf8(infer_list, error) from error
    photos = [listed_photo(folder, line) for line in filter(None, lines)]
    if not photos:
        raise DataError("the list is empty", where=infer_list)
    return photos


def lines_of(text: str) -> list[str]:
    """Split at line feeds and carriage returns only: a name may hold what Unicode calls a line end."""
    return re.split(r"\r\n|\r|\n", text)


def not_utf8(path: str | os.PathLike, error: UnicodeDecodeError, before: int = 0) -> DataError:
    """Return what is to be said of a list that is not UTF-8: the byte and its line.

    Args:
        path: of the list.
        error: of the decoding.
        before: lines before what was decoded.
    """
    line = before + error.object[: error.start].count(b"\n") + 1
    byte = error.object[error.start]  # not of the file's bytes: a byte order mark is not among these
    return DataError(f"byte {byte:#x} is not UTF-8", where=f"{path}:{line}", hint="save the list as UTF-8")


def listed_photo(folder: str | os.PathLike, line: str) -> str:
    """Return the path that a list's line names: below the folder, without the label that may follow."""
    *path, label = line.rsplit(None, 1)  # a path may hold spaces; a label is a number
    return os.path.join(folder, here(folder, path[0] if path and label.isdigit() else line))


def here(folder: str | os.PathLike, name: str) -> str:
    r"""Return a photo's name as this system has it: ``cat\1.jpg``, written on Windows, where only ``cat/1.jpg`` is."""
    if "\\" in name and os.sep == "/":
        slashed = name.replace("\\", "/")
        try:
            if not os.path.exists(os.path.join(folder, name)) and os.path.exists(os.path.join(folder, slashed)):
                return slashed
        except ValueError:  # a NUL in it
            pass
    return name
