"""Photos in tar shards (the WebDataset convention), found through an index: which photo lies where, and what it is.

A folder of shards holds tars and their index; ``docs/scale.md`` describes it. Every number of the index is a file of
its own that is mapped, not read: a hundred million photos open in no more time and memory than a thousand. A photo in
a shard is read with plain reads at its offset, so any mounted file system will do.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppmobilenet.errors import DamagedFileError, DataError

FORMAT, VERSION = "ppmobilenet-shards", 1
HEAD, COLUMNS = "index.json", "index"
BLOCK = 512  # of a tar: headers and contents begin at multiples of it
UNLABELLED = -1
# column -> (type, numbers a photo); a file NAME.npy each, one row a photo in the order of the shards
NUMBERS: Mapping[str, tuple[str, int]] = {
    "offsets": ("<i8", 1),  # of the photo's first byte in its shard
    "sizes": ("<u4", 1),  # of the photo in bytes
    "labels": ("<i4", 1),
    "sha256": ("|u1", 32),  # of the photo's bytes
    "name_ends": ("<i8", 1),  # where its name ends in names.bin
}
NAMES = "names.bin"  # the photos' names inside of their tars, UTF-8, one behind the other
OPEN = 128  # shards that a process keeps open
SHOWN = 5  # shards that a message names
AGAIN = "copy the shard again, or pack anew; ppmobilenet check-dataset --root {} examines all of them"


class Shard(NamedTuple):
    """One tar of a folder: its file's name, bytes, photos, and sha256."""

    file: str
    bytes: int
    photos: int
    sha256: str


def as_text(name: str) -> str:
    r"""Return what a name out of a tar is called everywhere: a byte that is not UTF-8 stands there as ``\xe9``.

    Two such names stay two (U+FFFD in place of every odd byte makes one of them), and the answers' JSON is UTF-8.

    Args:
        name: as tarfile gives it, with surrogates for odd bytes.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Member(str):
    """The path of a photo in a shard, ``train/shard-000003.tar/cat/7.jpg``, that knows where its bytes are.

    Attributes:
        shard: the tar's path.
        offset: of the photo's first byte.
        size: in bytes.
    """

    shard: str
    offset: int
    size: int

    def __new__(cls, shard: str, name: str, offset: int, size: int) -> Member:
        member = super().__new__(cls, f"{shard}/{name}")
        member.shard, member.offset, member.size = shard, offset, size
        return member

    def __reduce__(self):
        return Member, (self.shard, self[len(self.shard) + 1 :], self.offset, self.size)

    def content(self) -> bytes:  # not `read`: that would make a stream of it
        """Return the photo's bytes, after a look at the tar header before them.

        Raises:
            DataError: the shard is not there, is shorter than it was, or holds something else in this place.
        """
        self.check()  # a read of its own: to cut the header off would copy the photo
        return self._read(self.size, self.offset)

    def check(self) -> None:
        """See that the tar's header is there, and nothing more.

        Raises:
            DataError: as :meth:`content` does.
        """
        start, name = self.offset - BLOCK, self[len(self.shard) + 1 :]
        try:
            header = tarfile.TarInfo.frombuf(self._read(BLOCK, start), "utf-8", "replace")
            # of a long name the beginning stands there; one with accents, or what is not UTF-8, stands elsewhere
            plain = name.isascii() and "\\x" not in name
            same = header.size == self.size and (name.startswith(header.name) or not plain)
        except tarfile.HeaderError:
            same = False
        if not same:
            hint = AGAIN.format(os.path.dirname(self.shard) or ".")
            raise DataError(f"the shard was changed: this photo is not at byte {start}", where=self, hint=hint)

    def _read(self, count: int, start: int) -> bytes:
        """Return that many of the shard's bytes."""
        hint = AGAIN.format(os.path.dirname(self.shard) or ".")
        try:
            found = _opened(self.shard).read(count, start)
        except OSError as error:
            raise DataError(f"the shard cannot be read: {error.strerror or error}", where=self, hint=hint) from error
        if len(found) < count:
            raise DataError("the shard is truncated: it ends before this photo does", where=self, hint=hint)
        return found


class _Opened:
    """An open file that is closed when nobody uses it any more; any number of threads read from it."""

    def __init__(self, path: str):
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, count: int, start: int) -> bytes:
        """Return ``count`` bytes from ``start`` on; fewer only at the end of the file."""
        data = self._some(count, start)
        while len(data) < count and (more := self._some(count - len(data), start + len(data))):
            data += more
        return data

    def _some(self, count: int, start: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._number, count, start)
        with self._lock:  # Windows
            os.lseek(self._number, start, os.SEEK_SET)
            return os.read(self._number, count)

    def will_read(self, count: int, start: int) -> None:
        """Have the system fetch bytes that are read soon, where it can."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._number, start, count, os.POSIX_FADV_WILLNEED)

    def __del__(self):
        if hasattr(self, "_number"):
            os.close(self._number)


_opened = functools.lru_cache(OPEN)(_Opened)


def will_read(paths: Iterable[str]) -> None:
    """Have the system fetch what of these photos lies in shards, side by side: they are read next."""
    for path in paths:
        if isinstance(path, Member):
            with contextlib.suppress(OSError):  # reading it says so
                _opened(path.shard).will_read(BLOCK + path.size, path.offset - BLOCK)


class Shards(Sequence):
    """A folder of shards as the paths of its photos, in the order of the tars. A slice of it is one, too.

    Attributes:
        folder: that holds tars and index.
        shards: the tars.
        ends: int64 [shards], the photos up to the end of each.
        counts: label -> photos; None where nobody said what the photos show.
        labels: int32 [N].
        sha256: uint8 [N, 32].
        head: what else ``index.json`` says.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.head = _read_head(self.folder)
        self.shards = [Shard(*(entry[field] for field in Shard._fields)) for entry in self.head["shards"]]
        self.ends = np.cumsum([shard.photos for shard in self.shards], dtype=np.int64)
        found = self.head["labels"]
        self.counts = None if found is None else {int(label): count for label, count in found.items()}
        count = int(self.ends[-1])
        columns = {name: _mapped(self.folder, name, count) for name in NUMBERS}
        self._offsets, self._sizes, self._name_ends = (columns[n] for n in ("offsets", "sizes", "name_ends"))
        self.labels, self.sha256 = columns["labels"], columns["sha256"]
        self._names = _mapped_names(self.folder, int(self._name_ends[-1]))
        self._range = range(count)
        _opened.cache_clear()  # what was open may have been replaced since
        self._check_shards()

    def _check_shards(self) -> None:
        """Refuse shards that are not there, not as long as they were, or whose last photo is not where it was."""
        if len(self.shards) > 256:  # each may be a way to a server and back
            with ThreadPoolExecutor(16) as pool:
                found = list(pool.map(self._fault, range(len(self.shards))))
        else:
            found = list(map(self._fault, range(len(self.shards))))
        faults = [f"{self.folder / shard.file}: {fault}" for shard, fault in zip(self.shards, found) if fault]
        if faults:
            more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            raise DataError(
                "\n  ".join(faults[:SHOWN]) + more, hint="copy these shards again, or pack anew into another folder"
            )

    def _fault(self, number: int) -> str:
        shard, places = self.shards[number], self.of_shard(number)
        try:
            size = os.stat(self.folder / shard.file).st_size
            if size == shard.bytes and places:
                self.member(places[-1]).check()
        except OSError:
            return "this shard is not there"
        except DataError as error:
            return f"this shard is not the one that the index is of: {error.message}"
        if size == shard.bytes:
            return ""
        what = "truncated" if size < shard.bytes else "another one, or was changed"
        return f"this shard is {what}: it has {size} bytes, the index says {shard.bytes}"

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = object.__new__(Shards)
            part.__dict__.update(self.__dict__, _range=self._range[index])
            return part
        return self.member(self._range[index])

    def __iter__(self) -> Iterator[Member]:
        return (self.member(place) for place in self._range)

    def member(self, place: int) -> Member:
        """Return the path of a photo by its place among all photos of the folder."""
        shard = self.shards[int(np.searchsorted(self.ends, place, side="right"))]
        path = os.path.join(self.folder, shard.file)
        return Member(path, self.name(place), int(self._offsets[place]), int(self._sizes[place]))

    def name(self, place: int) -> str:
        """Return a photo's name inside of its tar."""
        start = int(self._name_ends[place - 1]) if place else 0
        return self._names[start : int(self._name_ends[place])].tobytes().decode("utf-8", "replace")

    def of_shard(self, number: int) -> range:
        """Return the places of a shard's photos."""
        return range(int(self.ends[number]) - self.shards[number].photos, int(self.ends[number]))


def is_shards(folder: str | os.PathLike) -> bool:
    """Whether a folder holds shards with their index."""
    return os.path.isfile(os.path.join(folder, HEAD)) and os.path.isdir(os.path.join(folder, COLUMNS))


def find_shards(source: str) -> Shards | None:
    """Return the photos that a folder of shards, its ``index.json`` or one of its tars names; None: it is none of them.

    Raises:
        DataError, DamagedFileError: the shards are not as their index says, or have none.
    """
    folder, file = os.path.split(source)
    if os.path.isdir(source):
        return Shards(source) if is_shards(source) else None
    if file == HEAD and is_shards(folder or "."):
        return Shards(folder or ".")
    if file.endswith(".tar") and os.path.isfile(source):
        if not is_shards(folder or "."):
            raise DataError(
                "a tar without an index", where=source, hint=f"ppmobilenet pack {folder or '.'} writes one for its tars"
            )
        shards = Shards(folder or ".")
        numbers = [number for number, shard in enumerate(shards.shards) if shard.file == file]
        if not numbers:
            raise DataError("the index of this folder does not know this tar", where=source)
        places = shards.of_shard(numbers[0])
        return shards[places.start : places.stop]
    return None


def find_member(path: str) -> Member | None:
    """Return the photo that ``DIR/shard-000003.tar/cat/7.jpg`` means, as text from a table or a list has it."""
    tar, slash, name = path.partition(".tar/")
    folder, file = os.path.split(f"{tar}.tar")
    if not slash or not is_shards(folder or "."):
        return None
    state = os.stat(os.path.join(folder, HEAD))
    return _by_name(folder, file, state.st_mtime_ns).get(name)


@functools.lru_cache(4)
def _by_name(folder: str, file: str, changed: int) -> dict[str, Member]:
    found = find_shards(os.path.join(folder, file)) or ()
    return {member[len(member.shard) + 1 :]: member for member in found}


def _read_head(folder: Path) -> dict:
    path = folder / HEAD
    try:
        head = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        hint = f"ppmobilenet pack LIST {folder} packs a list of photos; ppmobilenet pack {folder} indexes tars"
        raise DataError("there is no index of shards here", where=path, hint=hint) from error
    except OSError as error:
        raise DataError(f"the index cannot be read: {error.strerror or error}", where=path) from error
    except ValueError as error:
        raise DamagedFileError(f"this is no JSON: {error}", where=path, hint="copy it again, or pack anew") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise DamagedFileError(f"this is no index of shards: it lacks format {FORMAT!r}", where=path)
    if head.get("version") != VERSION:
        raise DamagedFileError(
            f"version {head.get('version')!r} of the index; this ppmobilenet reads version {VERSION}", where=path
        )
    entries, labels = head.get("shards"), head.get("labels")
    kinds = {"file": str, "bytes": int, "photos": int, "sha256": str}
    whole = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and all(type(entry.get(key)) is kind for key, kind in kinds.items())
        # a name leads nowhere else
        and os.path.basename(entry["file"]) == entry["file"] not in ("", ".", "..")
        and entry["photos"] >= 0
        for entry in entries
    )
    named = labels is None or (
        isinstance(labels, dict) and all(k.isdecimal() and type(v) is int for k, v in labels.items())
    )
    if not whole or not named or not sum(entry["photos"] for entry in entries):
        raise DamagedFileError("the index does not say which shards there are", where=path, hint="pack anew")
    return head


def _mapped(folder: Path, name: str, count: int) -> np.ndarray:
    """Return a column, mapped."""
    path = folder / COLUMNS / f"{name}.npy"
    kind, numbers = NUMBERS[name]
    try:
        column = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedFileError(
            f"this part of the index cannot be read: {error}", where=path, hint="copy it again, or pack anew"
        ) from error
    if column.dtype != np.dtype(kind) or column.shape != ((count,) if numbers == 1 else (count, numbers)):
        raise DamagedFileError(
            f"{column.dtype} {list(column.shape)} here, and {HEAD} says {count} photos: they are of two packings",
            where=path,
            hint="copy the index again, all of it, or pack anew",
        )
    return column


def _mapped_names(folder: Path, length: int) -> np.ndarray:
    path = folder / COLUMNS / NAMES
    try:
        names = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"this part of the index cannot be read: {error}", where=path) from error
    if len(names) != length:
        raise DamagedFileError(f"{len(names)} bytes, and name_ends.npy says {length}", where=path, hint="pack anew")
    return names
