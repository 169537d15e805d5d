"""Photos from tar shards against single files, warm and cold, and how long a very large index takes to open.

Both ways hand the same photos through the same pipeline, in turns. Cold means that the system keeps none of them:
``/proc/sys/vm/drop_caches`` where this process may write it, which forgets the names and places of files too, else
``posix_fadvise`` on each file. ``read`` is the bytes alone, as a worker reads them; ``train`` is what the workers of a
loader hand over.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from ppmobilenet import telling
from ppmobilenet.benchmarks.data import OPS, make_photos, originals_of
from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler
from ppmobilenet.data.shards.dataset import ShardDataset
from ppmobilenet.data.shards.order import ShardSampler
from ppmobilenet.data.shards.pack import pack
from ppmobilenet.data.shards.plan import Wanted
from ppmobilenet.machine import usable_cores
from ppmobilenet.photos.decode import read_bytes
from ppmobilenet.photos.shards import COLUMNS, FORMAT, HEAD, NAMES, NUMBERS, VERSION, will_read
from ppmobilenet.telling import log

DROP = Path("/proc/sys/vm/drop_caches")
FILES = 2048  # of the comparison; ImageNet's have 110 KB
BATCH = 64
A_SHARD = 4700  # photos of 110 KB in 512 MB, in the made-up index
CLASSES = 1000
CHUNK = 2**20
# what a training does with an index before its first step, in a process of its own
START = """
import json, sys, time
from ppmobilenet.data.doctor import examine
from ppmobilenet.data.samplers import DistributedBatchSampler, Share
from ppmobilenet.data.shards.dataset import ShardDataset, ShardListed
from ppmobilenet.data.shards.order import ShardSampler
def memory(kind):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(kind)).split()[1]) / 1e3
before, start = memory("RssAnon"), time.perf_counter()
listed = ShardListed(sys.argv[1])
errors = examine({"train": listed}, class_num=int(sys.argv[2]), photos=False).errors
dataset = ShardDataset(sys.argv[1], class_num=int(sys.argv[2]), listed=listed)
assert not errors and len(dataset)
opened = time.perf_counter() - start
sampler = ShardSampler(DistributedBatchSampler(256, shuffle=True), dataset.windows)
seconds = []
for step in (0, sampler.steps(len(dataset), Share()) // 2):
    start = time.perf_counter()
    draw = next(sampler.batches(dataset.samples.labels, Share(), 1, 3, step))
    photos = [dataset.samples.path(index) for index in draw.indices]
    labels = dataset.samples.labels[draw.indices]
    seconds.append(time.perf_counter() - start)
print(json.dumps({"open_seconds": opened, "first_batch_seconds": seconds[0], "resumed_batch_seconds": seconds[1],
                  "own_megabytes": memory("RssAnon") - before, "peak_megabytes": memory("VmHWM")}))
"""


@telling.aloud()
def shards_speed(
    images: str | os.PathLike | None = None, rounds: int = 5, workers: int = 2, indexed: int | None = None
) -> dict:
    """Measure shards.

    Args:
        images: a folder of photos to make the test's from; default drawn ones.
        rounds: turns of each, after one to warm up.
        workers: worker processes of the loaders.
        indexed: photos of a made-up index to open, too.

    Returns:
        ``rows`` (what, from, cache, photos a second: median of the turns), ratios such as
        ``train.cold.shards_over_files`` (median of the turns' ratios), how the cache was emptied, and ``start``.
    """
    result: dict = {"rows": [], "photos": str(images) if images else "drawn"}
    with tempfile.TemporaryDirectory(prefix="ppmobilenet-") as name:
        folder = Path(name)
        _make(folder, originals_of(images))
        result["emptied_by"] = _empty(folder)
        runs = {**_reading(folder), **_training(folder, workers)}
        try:
            rates = _take_turns(folder, {key: run for key, (run, _) in runs.items()}, rounds)
        finally:
            for _, close in runs.values():
                close()
    for (what, source, cache), values in rates.items():
        rate = round(statistics.median(values), 1)
        result["rows"].append({"what": what, "from": source, "cache": cache, "photos_per_second": rate})
        log.info(f"{what:<6}{source:<7}{cache:<5}{rate:9.1f} photos/s")
    for what in ("read", "train"):
        for cache in ("warm", "cold"):
            pairs = zip(rates[what, "shards", cache], rates[what, "files", cache])
            result[f"{what}.{cache}.shards_over_files"] = round(statistics.median(a / b for a, b in pairs), 3)
    if indexed:
        result["start"] = start_up(indexed)
        log.info(f"{indexed} indexed photos: {json.dumps(result['start'])}")
    return result


def _make(folder: Path, originals: Sequence[np.ndarray]) -> None:
    """Write the photos, their list, and the shards of them."""
    made = make_photos(folder, "imagenet", originals)
    (folder / "files").mkdir()
    lines = []
    for number in range(FILES):
        data = Path(made[number % len(made)]).read_bytes()
        # in folders of a class each, as they come
        path = folder / "files" / f"{number % 64:02}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        lines.append(f"{path.relative_to(folder / 'files')} 0\n")
    (folder / "list.txt").write_text("".join(lines))
    wanted = Wanted(folder / "list.txt", folder / "files", shard_bytes=32 * 10**6)
    pack(wanted, folder / "shards", usable_cores())
    os.sync()


def _empty(folder: Path) -> str:
    """Have the system forget the photos; return how."""
    os.sync()
    try:
        DROP.write_text("3")
        return str(DROP)
    except OSError:
        for path in folder.rglob("*.*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return "posix_fadvise"


def _fill(folder: Path) -> None:
    """Have the system hold the photos, of both kinds."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            path.read_bytes()


def _datasets(folder: Path) -> dict:
    # a window of a part of them: what a set that is larger than the window does
    return {
        "files": ImageNetDataset(str(folder / "files"), str(folder / "list.txt"), OPS),
        "shards": ShardDataset(str(folder / "shards"), OPS, window=FILES // 2),
    }


def _sampler(dataset: ImageNetDataset) -> DistributedBatchSampler:
    sampler = DistributedBatchSampler(BATCH, shuffle=True)
    return ShardSampler(sampler, dataset.windows) if isinstance(dataset, ShardDataset) else sampler


def _reading(folder: Path) -> dict[tuple[str, str], tuple[Callable, Callable]]:
    """Return what reads an epoch's photos, batch by batch, in one thread."""

    def reader(dataset: ImageNetDataset) -> Callable[[int], int]:
        loader = Loader(dataset, _sampler(dataset))

        def run(turn: int) -> int:
            loader.set_epoch(turn)
            photos = 0
            for task in loader._tasks():
                will_read(task.paths)
                photos += sum(read_bytes(path) is not None for path in task.paths)
            return photos

        return run

    return {("read", name): (reader(dataset), lambda: None) for name, dataset in _datasets(folder).items()}


def _training(folder: Path, workers: int) -> dict[tuple[str, str], tuple[Callable, Callable]]:
    """Return what takes an epoch from a loader."""

    def runner(loader: Loader) -> Callable[[int], int]:
        def run(turn: int) -> int:
            loader.set_epoch(turn)
            return sum(len(batch.indices) for batch in loader)

        return run

    made = {}
    for name, dataset in _datasets(folder).items():
        loader = Loader(dataset, _sampler(dataset), num_workers=workers, pipeline="fast", on_device=True)
        made["train", name] = runner(loader), loader.close
    return made


def _take_turns(folder: Path, runs: dict, rounds: int) -> dict[tuple[str, str, str], list[float]]:
    rates: dict[tuple[str, str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for cache in ("warm", "cold"):
            for (what, source), run in runs.items():
                (_empty if cache == "cold" else _fill)(folder)
                start = time.perf_counter()
                photos = run(turn)
                if turn:
                    rates.setdefault((what, source, cache), []).append(photos / (time.perf_counter() - start))
    return rates


def start_up(photos: int) -> dict:
    """Open a made-up index of so many photos as a training does; see START for what is returned."""
    with tempfile.TemporaryDirectory(prefix="ppmobilenet-") as name:
        folder = Path(name)
        make_index(folder, photos)
        emptied = _empty(folder)
        done = subprocess.run(
            [sys.executable, "-c", START, str(folder), str(CLASSES)], capture_output=True, text=True, check=True
        )
        size = sum(path.stat().st_size for path in (folder / COLUMNS).iterdir())
    found = {key: round(value, 3) for key, value in json.loads(done.stdout).items()}
    return {"photos": photos, "shards": -(-photos // A_SHARD), "index_bytes": size, "emptied_by": emptied, **found}


def make_index(folder: Path, photos: int) -> None:
    """Write an index of photos that are not there: every number is one, the sha256 are zeros, the tars are empty."""
    (folder / COLUMNS).mkdir()
    columns = {
        name: open_memmap(
            folder / COLUMNS / f"{name}.npy", "w+", kind, (photos,) if numbers == 1 else (photos, numbers)
        )
        for name, (kind, numbers) in NUMBERS.items()
    }
    rng = np.random.default_rng(0)
    padded = 110 * 2**10 + 3 * 512
    width, counts = 13, np.zeros(CLASSES, np.int64)
    with open(folder / COLUMNS / NAMES, "wb") as names:
        for at in range(0, photos, CHUNK):
            places = np.arange(at, min(at + CHUNK, photos))
            labels = rng.integers(0, CLASSES, len(places), dtype=np.int32)
            counts += np.bincount(labels, minlength=CLASSES)
            chunk = slice(at, at + len(places))
            columns["offsets"][chunk] = places % A_SHARD * padded + 512
            columns["sizes"][chunk] = 110 * 2**10
            columns["labels"][chunk] = labels
            columns["name_ends"][chunk] = (places + 1) * width
            digits = (places[:, None] // 10 ** np.arange(width - 5, -1, -1) % 10 + ord("0")).astype(np.uint8)
            tail = np.broadcast_to(np.frombuffer(b".jpg", np.uint8), (len(places), 4))
            names.write(np.concatenate([digits, tail], axis=1).tobytes())
    shards = []
    for number, begin in enumerate(range(0, photos, A_SHARD)):
        count = min(A_SHARD, photos - begin)
        file = f"shard-{number:06}.tar"
        with open(folder / file, "wb") as tar:  # as long as it should be, and empty but for the last photo's header
            tar.truncate(count * padded + 10240)
            tar.seek((count - 1) * padded)
            member = tarfile.TarInfo(f"{begin + count - 1:0{width - 4}}.jpg")
            member.size = 110 * 2**10
            tar.write(member.tobuf())
        shards.append({"file": file, "bytes": count * padded + 10240, "photos": count, "sha256": "0" * 64})
    labels = {str(label): int(count) for label, count in enumerate(counts) if count}
    head = {"format": FORMAT, "version": VERSION, "photos": photos, "labels": labels, "shards": shards}
    (folder / HEAD).write_text(json.dumps(head))
