"""The fast pipeline gives the crops of the exact one; samplers draw what they promise; caches hold what was decoded."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppmobilenet.data import fast
from ppmobilenet.data.balance import class_weights
from ppmobilenet.data.cache import build_cache
from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.loader import Batch, Loader
from ppmobilenet.data.samplers import ClassBalancedBatchSampler, DistributedBatchSampler, RASampler, Share, times_before
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DataError
from ppmobilenet.photos import jpeg as jpeg_header
from ppmobilenet.photos.jpeg import keep_rows, read_header

TRAIN_OPS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"RandCropImage": {"size": 64}},
    {"RandFlipImage": {"flip_code": 1}},
    {"NormalizeImage": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "order": ""}},
]


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 9).astype(np.float32)
    return np.clip((blurred - blurred.mean()) * 8 + 128, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, orientation: int = 1) -> bytes:
    image = pytest.importorskip("PIL.Image")
    out, exif = io.BytesIO(), image.Exif()
    exif[274] = orientation
    image.fromarray(pixels).save(out, "JPEG", quality=92, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("binding", ["simplejpeg", "opencv"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_fast_crops_are_the_exact_ones(orientation, binding, monkeypatch):
    if binding == "opencv":
        monkeypatch.setattr(fast, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    data = jpeg(smooth(600, 1000), orientation)
    assert read_header(data).orientation == orientation
    exact = build_transforms(TRAIN_OPS[:3])
    quick, left = fast.build_fast(TRAIN_OPS)
    assert left is not None
    for seed in range(6):
        one, other = (compose(data, np.random.default_rng(seed)) for compose in (exact, quick))
        assert one.shape == other.shape == (64, 64, 3)
        difference = np.abs(one.astype(int) - other)
        # a box reduced in the DCT domain may lie half a reduced pixel beside the exact one
        assert difference.mean() < 6 and np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98


def test_a_header_is_read_however_it_is_stuffed():
    data = jpeg(smooth(60, 100), 6)
    stuffed = [b"\xff", b"\xff\x00", b"\xff\xd0\xff\x01", b"\0", b"\xff\xe0\x00\x02"]
    for junk in (b"", *stuffed, *(one * 1000 for one in stuffed), b"".join(stuffed) * 50):
        header = read_header(data[:2] + junk + data[2:])
        assert (header.width, header.height, header.orientation) == (100, 60, 6)
        assert header.height_at == read_header(data).height_at + len(junk)
    assert read_header(data[:2] + b"\xff\xe0\x00\x02" * 1_000_000 + data[2:]) is None  # no camera wrote that


def test_a_header_is_searched_in_pieces(monkeypatch):
    """Until a search ends no other thread runs: megabytes of stuffing would hold up a whole server."""
    data, searched = jpeg(smooth(60, 100)), []

    class Noting:
        def search(self, data, start, end=None):
            searched.append((len(data) if end is None else end) - start)
            return marker.search(data, start, len(data) if end is None else end)

    marker = jpeg_header.MARKER
    monkeypatch.setattr(jpeg_header, "MARKER", Noting())
    piece = jpeg_header.PIECE
    for stuffed in (*range(piece - 3, piece + 4), *range(2 * piece - 3, 2 * piece + 4), 5_000_000):
        header = read_header(data[:2] + bytes(stuffed) + data[2:])
        assert (header.width, header.height, header.height_at) == (100, 60, read_header(data).height_at + stuffed)
    assert max(searched) <= piece + 1


@pytest.mark.parametrize("options", [{"subsampling": s} for s in (0, 1, 2)] + [{"restart_marker_rows": 2}, {}])
@pytest.mark.parametrize("grey", [False, True])
def test_the_rows_above_a_cut_are_decoded_to_the_same_bits(options, grey):
    simplejpeg, image = pytest.importorskip("simplejpeg"), pytest.importorskip("PIL.Image")
    picture = image.fromarray(smooth(203, 157))
    (picture.convert("L") if grey else picture).save(out := io.BytesIO(), "JPEG", quality=90, **options)
    data, whole = out.getvalue(), simplejpeg.decode_jpeg(out.getvalue(), fastupsample=True)
    header = read_header(data)
    assert (header.width, header.height, header.sequential) == (157, 203, True)
    for bottom in (1, 8, 17, 100, 150, 170, 203):
        kept = keep_rows(data, header, bottom)
        rows = simplejpeg.decode_jpeg(kept, fastupsample=True, strict=False)
        assert bottom <= len(rows) <= 203 and (bottom > 150 or len(rows) < bottom + 16)
        np.testing.assert_array_equal(rows, whole[: len(rows)])
    assert keep_rows(data[:-900], header, 8) == data[:-900]  # truncated: decoding all of it shall tell


def test_a_progressive_jpeg_is_not_cut():
    image = pytest.importorskip("PIL.Image")
    image.fromarray(smooth(200, 160)).save(out := io.BytesIO(), "JPEG", progressive=True)
    header = read_header(out.getvalue())
    assert not header.sequential and keep_rows(out.getvalue(), header, 16) == out.getvalue()


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_every_crop_of_a_turned_photo_is_the_exact_one(orientation):
    pytest.importorskip("simplejpeg")
    data = jpeg(smooth(120, 200), orientation)
    whole = fast.Photo(data, True)
    everything = whole.box(0, 0, whole.width, whole.height, 1).copy()
    rng = np.random.default_rng(orientation)
    for _ in range(25):
        width, height = int(rng.integers(1, whole.width + 1)), int(rng.integers(1, whole.height + 1))
        left, top = int(rng.integers(0, whole.width - width + 1)), int(rng.integers(0, whole.height - height + 1))
        box = fast.Photo(data, True).box(left, top, width, height, 1)
        np.testing.assert_array_equal(box, everything[top : top + height, left : left + width])


def test_a_truncated_photo_is_found_wherever_the_crop_lies():
    data = jpeg(smooth(400, 300))
    quick, _ = fast.build_fast(TRAIN_OPS)
    for seed in range(8):
        with pytest.raises(DataError, match="truncated or damaged"):
            quick(data[: len(data) // 2], np.random.default_rng(seed))


# bilinear resizing to 64 leaves aliasing, which adds to the deviation; averaging in the decoder does not
@pytest.mark.parametrize("size, deviation", [(224, 0.02), (64, 0.05)])
def test_pixel_statistics_of_real_photos(shared, size, deviation):
    ops = [TRAIN_OPS[0], {"RandCropImage": {"size": size}}]
    exact, (quick, _) = build_transforms(ops), fast.build_fast(ops)
    photos = sorted((shared / "data/clothing/val").rglob("*.jpg"))[:24] + sorted((shared / "images").glob("*.jp*g"))
    pairs = [[c(p, np.random.default_rng(i)) for c in (exact, quick)] for i, p in enumerate(photos)]
    one, other = (np.stack(side).reshape(-1, 3).astype(float) for side in zip(*pairs))
    assert np.abs(one.mean(0) - other.mean(0)).max() < 0.5 and np.abs(one.std(0) / other.std(0) - 1).max() < deviation


@pytest.mark.parametrize("size", [(64, 64), (16, 300), (1, 1), (65, 3000)])
def test_any_shape_goes_through(size):
    quick, _ = fast.build_fast(TRAIN_OPS)
    resized, _ = fast.build_fast([TRAIN_OPS[0], {"ResizeImage": {"size": [20, 24]}}])
    for seed in range(5):
        assert quick(jpeg(smooth(*size)), np.random.default_rng(seed)).shape == (64, 64, 3)
    assert resized(jpeg(smooth(*size))).shape == (24, 20, 3)


def test_bad_photos_are_named_by_the_fast_pipeline(tmp_path):
    quick, _ = fast.build_fast(TRAIN_OPS)
    path = tmp_path / "a.jpg"
    for data, words in ((b"", "empty"), (jpeg(smooth(99, 99))[:1500], "truncated"), (b"<html>", "web page")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=words) as error:
            quick(str(path), np.random.default_rng(0))
        assert "a.jpg" in str(error.value)
    cmyk = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(smooth(80, 80)).convert("CMYK").save(cmyk, "JPEG")
    assert quick(cmyk.getvalue(), np.random.default_rng(0)).shape == (64, 64, 3)


def test_normalising_a_batch_is_exact():
    _, left = fast.build_fast(TRAIN_OPS)
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    expected = ((images.astype(np.float32) * np.float32(1 / 255) - mean) / std).transpose(0, 3, 1, 2)
    assert np.array_equal(left(images), expected)
    pytest.importorskip("paddle")
    from ppmobilenet.training.device import images_of

    on_device = images_of(Batch(images, np.zeros(3), np.arange(3), left)).numpy()
    assert np.abs(on_device - expected).max() < 1e-6


def test_reduction_never_leaves_too_few_pixels():
    for have in range(1, 2000, 17):
        by = fast.reduction_for((have, 2000), (64, 64))
        assert by in (1, 2, 4, 8) and (by == 1 or have >= 128 * by) and (by == 8 or have < 256 * by)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for i in range(12):
        (root / f"{i}.jpg").write_bytes(jpeg(smooth(150, 140 + 10 * i, i)))
    (root / "list.txt").write_text("".join(f"{i}.jpg {min(i // 4, 1)}\n" for i in range(12)))
    return root


def load(root: Path, workers: int = 0, cache: str | None = None, **kwargs) -> Loader:
    dataset = ImageNetDataset(str(root), str(root / "list.txt"), TRAIN_OPS)
    return Loader(
        dataset, DistributedBatchSampler(5, shuffle=True), num_workers=workers, cache=cache, pipeline="fast", **kwargs
    )


def test_batches_are_the_same_by_every_way(photos):
    ways = {
        "in process": load(photos),
        "memfd": load(photos, 2),
        "pipe": load(photos, 1, use_shared_memory=False),
        "device": load(photos, 1, on_device=True),
    }
    batches = {name: list(loader) for name, loader in ways.items()}
    assert batches["device"][0].images.dtype == np.uint8
    batches["device"] = [b._replace(images=b.normalization(b.images)) for b in batches["device"]]
    for name, got in batches.items():
        for one, other in zip(batches["in process"], got):
            assert np.array_equal(one.images, other.images) and np.array_equal(one.indices, other.indices), name
        ways[name].close()


def test_nothing_is_left_in_shared_memory(photos):
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    loader = load(photos, 2)
    for _ in loader:
        if before:
            assert set(os.listdir("/dev/shm")) - before == set() or os.path.ismount("/dev/shm")
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        list(loader)
        loader.close()
    if files:
        assert len(os.listdir("/proc/self/fd")) <= files


def test_a_hung_worker_is_found(photos, monkeypatch):
    import signal

    monkeypatch.setattr("ppmobilenet.data.loader.TIME_LIMIT", 0.5)
    loader = load(photos, 1)
    iterator = iter(loader)
    monkeypatch.setattr("ppmobilenet.data.loader.TIME_LIMIT", 30)
    next(iterator)
    monkeypatch.setattr("ppmobilenet.data.loader.TIME_LIMIT", 0.5)
    worker = loader._workers[0].process
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(DataError, match="no batch within 0.5 s; its first photo is .*jpg"):
        for _ in range(9):
            next(iterator)
    assert worker.poll() is not None


def test_cached_photos_are_the_decoded_ones(photos, tmp_path):
    folder = tmp_path / "cache"
    paths = [str(photos / f"{i}.jpg") for i in range(12)]
    cache = build_cache(folder, [*paths, str(tmp_path / "missing.jpg")], 10**9)
    assert len(cache) == 12
    exact = ImageNetDataset(str(photos), str(photos / "list.txt"), TRAIN_OPS)
    plain, cached = (Loader(exact, DistributedBatchSampler(5, shuffle=True), cache=c) for c in (None, str(folder)))
    for one, other in zip(plain, cached):
        assert np.array_equal(one.images, other.images)
    changed = tmp_path / "changed.jpg"
    changed.write_bytes(jpeg(smooth(60, 70, 1)))
    before = build_cache(folder, [*paths, str(changed)], 10**9).get(str(changed)).copy()
    changed.write_bytes(jpeg(smooth(60, 70, 2)))
    after = build_cache(folder, [*paths, str(changed)], 10**9)
    assert len(after) == 13 and not np.array_equal(after.get(str(changed)), before)
    small = build_cache(tmp_path / "small", paths, 4 * 150 * 160 * 3)
    assert 0 < len(small) < 12 and (tmp_path / "small/pixels.bin").stat().st_size <= 4 * 150 * 160 * 3
    assert not list(folder.glob(".*"))


def test_repeated_augmentation():
    sampler = RASampler(4, shuffle=True, num_repeats=3)
    labels = np.zeros(24, int)
    draws = [d for rank in range(2) for d in sampler.batches(labels, Share(rank, 2), 0, 1)]
    seen = np.concatenate([d.indices for d in draws])
    assert len(seen) == 24 and len(set(seen)) == 8 and set(np.bincount(seen)) == {0, 3}
    assert sorted(set(np.concatenate([d.times for d in draws]))) == [0, 1, 2]
    assert sum(len(d.indices) for d in sampler.batches(np.zeros(1000, int), Share(0, 2), 0, 0)) == 384


def test_the_same_photo_is_augmented_anew(photos):
    dataset = ImageNetDataset(str(photos), str(photos / "list.txt"), TRAIN_OPS)
    batches = list(Loader(dataset, RASampler(12, shuffle=True, num_repeats=3)))
    images, indices = batches[0].images, batches[0].indices
    same = [images[indices == i] for i in set(indices)]
    assert all(len(group) == 3 and not np.array_equal(group[0], group[1]) for group in same)


def test_class_balanced_sampling():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    for balance, expected in ((1.0, [1 / 3] * 3), (0.0, [0.9, 0.09, 0.01]), (0.5, [0.70, 0.222, 0.074])):
        sampler = ClassBalancedBatchSampler(50, balance=balance)
        drawn = np.concatenate([d.indices for e in range(4) for d in sampler.batches(labels, Share(), 0, e)])
        assert np.allclose(np.bincount(labels[drawn]) / len(drawn), expected, atol=0.03)
    sampler = ClassBalancedBatchSampler(50)
    drawn = np.concatenate([d.indices for d in sampler.batches(labels, Share(), 0, 0)])
    counts = np.bincount(drawn, minlength=1000)
    assert counts[:900].max() == 1 and counts[990:].max() - counts[990:].min() <= 1
    assert np.array_equal(times_before(np.array([3, 1, 3, 3, 1])), [0, 0, 1, 2, 1])


def test_class_weights_keep_the_size_of_the_loss():
    labels = np.array([0] * 90 + [1] * 10)
    weights = class_weights(labels, 3)
    assert weights[2] == 0 and np.isclose(weights[0] * 90, weights[1] * 10) and np.isclose(weights[labels].mean(), 1)
    assert np.allclose(class_weights(labels, 2, balance=0), 1)
    assert np.isclose(class_weights(labels, 2, balance=0.5)[1] / class_weights(labels, 2, balance=0.5)[0], 3)


def test_the_benchmark_gives_the_promised_keys(tmp_path, monkeypatch, capsys):
    import json

    from ppmobilenet.benchmarks import data as data_speed
    from ppmobilenet.cli import main

    monkeypatch.setattr(data_speed, "KINDS", {"imagenet": (160, 4, 90), "mp12": (500, 1, 90), "small": (64, 4, 90)})
    out = tmp_path / "speed.json"
    assert main(["benchmark", "data", "--rounds", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert {"imagenet.fast_over_loop", "mp12.fast_over_loop", "small.fast_over_loop", "workers2_over_1"} <= set(result)
    assert "imagenet.fast_over_loop" in capsys.readouterr().out
    paths = data_speed.make_photos(tmp_path, "small", data_speed.originals_of(None))
    loop = data_speed.plain_loop(paths, 3)
    exact = data_speed._through(data_speed.Maker(data_speed.Recipe(data_speed.OPS)))(paths, 3)
    assert np.array_equal(loop, exact)  # both do the same work
