"""How many photos a second become batches: the exact and the fast pipeline against a plain loop, in one run.

The plain loop is what one writes with OpenCV and NumPy: decode, crop, resize, flip, normalise, transpose. They take
turns, and CPU seconds are counted, so that whatever else the machine does changes little; ratios are of turns. ``fast``
includes the normalisation to float32 on the same core.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from ppmobilenet import telling
from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler
from ppmobilenet.data.transforms import RandCropImage
from ppmobilenet.data.worker import Maker, Recipe, Task, generator
from ppmobilenet.errors import UserError
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.operators import IMAGENET_MEAN, IMAGENET_STD
from ppmobilenet.telling import log

SIZE = 224
OPS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"RandCropImage": {"size": SIZE}},
    {"RandFlipImage": {"flip_code": 1}},
    {"NormalizeImage": {"order": ""}},
]
# kind -> (longer side in pixels, photos, JPEG quality); ImageNet's files have 110 KB on average
KINDS = {"imagenet": (500, 48, 97), "mp12": (4000, 8, 90), "small": (128, 48, 92)}


PHOTOS = 48  # of a folder that are taken


def plain_loop(paths: Sequence[str], seed: int) -> np.ndarray:
    """Return float32 [N, 3, 224, 224] as plain calls of OpenCV and NumPy make it."""
    crop = RandCropImage(size=SIZE)
    mean, std = (np.array(values, np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = []
    for index, path in enumerate(paths):
        rng = generator(seed, 0, index)
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        left, top, width, height = crop.box(image.shape[1], image.shape[0], rng)
        image = cv2.resize(np.ascontiguousarray(image[top : top + height, left : left + width]), (SIZE, SIZE))
        if rng.random() < 0.5:
            image = cv2.flip(image, 1)
        image = (image.astype(np.float32) * np.float32(1 / 255) - mean) / std
        images.append(image.transpose(2, 0, 1))
    return np.stack(images)


def _through(maker: Maker) -> Callable[[Sequence[str], int], np.ndarray]:
    def run(paths: Sequence[str], seed: int) -> np.ndarray:
        made = maker(Task(seed, 0, range(len(paths)), [0] * len(paths), paths))
        return maker.normalization(made.images) if maker.normalization else made.images

    return run


def make_photos(folder: Path, kind: str, originals: Sequence[np.ndarray]) -> list[str]:
    """Write photos of a kind: the originals resized; the large ones with the noise that a sensor has."""
    side, count, quality = KINDS[kind]
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        original = originals[number % len(originals)]
        scale = side / max(original.shape[:2])
        by = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        image = cv2.resize(original, None, fx=scale, fy=scale, interpolation=by)
        if kind == "mp12":
            # smooth photos would flatter scaled decoding
            noise = rng.standard_normal(image.shape[:2] + (1,), np.float32) * 6
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
        path = folder / f"{kind}-{number}.jpg"
        path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
        paths.append(str(path))
    return paths


def originals_of(images: str | os.PathLike | None) -> list[np.ndarray]:
    """Return BGR photos from a folder, or drawn ones with a photo's spectrum where none is given."""
    if images is not None:
        if not Path(images).is_dir():
            raise UserError("no such folder", where=images)
        paths = list_photos(images)
        # from the whole folder: the first ones are often of one class, on one background
        return [decode_image(path, to_rgb=False) for path in paths[:: -(-len(paths) // PHOTOS)]]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4):
        layers = [
            cv2.resize(rng.standard_normal((375 // s + 1, 500 // s + 1, 3)), (500, 375), interpolation=cv2.INTER_CUBIC)
            * s
            for s in (1, 2, 4, 8, 16, 32, 64)
        ]
        drawn.append(np.clip(128 + sum(layers) * 0.9, 0, 255).astype(np.uint8))
    return drawn


@telling.aloud()
def data_speed(
    images: str | os.PathLike | None = None,
    rounds: int = 7,
    workers: int = 2,
) -> dict:
    """Measure the pipelines.

    Args:
        images: a folder of photos to make the three kinds from; default drawn ones.
        rounds: turns of each pipeline, after one to warm up.
        workers: worker processes to compare with one.

    Returns:
        ``rows`` (kind, pipeline, photos a second of one core: median), ratios such as ``imagenet.fast_over_loop``
        (median of the turns' ratios), ``workers2_over_1`` for the fast pipeline on ImageNet-size photos, and the
        ``photos`` measured with.
    """
    result: dict = {"rows": [], "photos": str(images) if images else "drawn"}
    pipelines = {
        "loop": plain_loop,
        "exact": _through(Maker(Recipe(OPS, "exact"))),
        "fast": _through(Maker(Recipe(OPS, "fast"))),
    }
    originals = originals_of(images)
    threads = cv2.getNumThreads()
    with tempfile.TemporaryDirectory(prefix="ppmobilenet-") as name:
        cv2.setNumThreads(0)
        try:
            for kind in KINDS:
                paths = make_photos(Path(name), kind, originals)
                result[f"{kind}.kilobytes"] = round(sum(os.path.getsize(path) for path in paths) / len(paths) / 1000)
                seconds: dict[str, list[float]] = {pipeline: [] for pipeline in pipelines}
                for turn in range(rounds + 1):
                    for pipeline, run in pipelines.items():
                        start = time.process_time()
                        run(paths, turn)
                        if turn:
                            seconds[pipeline].append((time.process_time() - start) / len(paths))
                for pipeline, spent in seconds.items():
                    rate = 1 / statistics.median(spent)
                    result["rows"].append({"kind": kind, "pipeline": pipeline, "photos_per_second": round(rate, 1)})
                    log.info(f"{kind:<10}{pipeline:<8}{rate:9.1f} photos/s on one core")
                for pipeline in ("exact", "fast"):
                    ratios = [loop / ours for loop, ours in zip(seconds["loop"], seconds[pipeline])]
                    result[f"{kind}.{pipeline}_over_loop"] = round(statistics.median(ratios), 3)
        finally:
            cv2.setNumThreads(threads)
        rates = _with_workers(Path(name), [1, workers], max(3, rounds // 2))
    for (pipeline, count), values in rates.items():
        rate = round(statistics.median(values), 1)
        row = {"kind": "imagenet", "pipeline": pipeline, "workers": count, "photos_per_second": rate}
        result["rows"].append(row)
        log.info(f"{'imagenet':<10}{pipeline:<8}{rate:9.1f} photos/s from {count} worker{'s' if count > 1 else ''}")
    if workers > 1:
        ratios = [many / one for one, many in zip(rates["fast", 1], rates["fast", workers])]
        result[f"workers{workers}_over_1"] = round(statistics.median(ratios), 3)
    return result


def _with_workers(folder: Path, counts: Sequence[int], rounds: int) -> dict[tuple[str, int], list[float]]:
    """Photos a second that each pipeline and number of workers hands over, in turns; their start is not counted.

    The plain loop's workers are a pool of processes that return their batches, as one would write it.
    """
    names = sorted(path.name for path in folder.glob("imagenet-*.jpg"))
    (folder / "list.txt").write_text("".join(f"{names[i % len(names)]} 0\n" for i in range(1024)))
    counts = list(dict.fromkeys(counts))
    loaders, pools = {}, {}
    for count in counts:
        pools["loop", count] = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), cv2.setNumThreads, (0,))
        for pipeline in ("exact", "fast"):
            dataset = ImageNetDataset(str(folder), str(folder / "list.txt"), OPS)
            sampler = DistributedBatchSampler(32, shuffle=True)
            loaders[pipeline, count] = Loader(
                dataset, sampler, num_workers=count, pipeline=pipeline, on_device=pipeline == "fast"
            )
    some = [str(folder / names[i % len(names)]) for i in range(256)]
    chunks = [some[at : at + 32] for at in range(0, len(some), 32)]
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in (*pools, *loaders)}
    try:
        for turn in range(rounds + 1):
            for key in rates:
                start = time.perf_counter()
                if key in pools:
                    photos = sum(len(batch) for batch in pools[key].map(plain_loop, chunks, [turn] * len(chunks)))
                else:
                    loaders[key].set_epoch(turn)
                    photos = sum(len(batch.indices) for batch in loaders[key])
                if turn:
                    rates[key].append(photos / (time.perf_counter() - start))
    finally:
        for loader in loaders.values():
            loader.close()
        for pool in pools.values():
            pool.shutdown()
    return rates
