"""List files: labels, line ends, numbering anew, and the cache of decoded photos behind them."""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np
import pytest

from ppmobilenet.config import load_config
from ppmobilenet.data import doctor
from ppmobilenet.data.build import build_dataset, lists_of
from ppmobilenet.data.cache import DecodedCache, build_cache
from ppmobilenet.data.class_names import check_labels, class_names
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.lists import read_list, scan_list
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import decode_image
from ppmobilenet.photos.names import list_photos


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    return tmp_path


def test_only_plain_digits_are_labels(tmp_path):
    (tmp_path / "l.txt").write_text("a 1_0\nb ١\nc +2\nd 3\n", encoding="utf-8")
    paths, labels, lines, faults = scan_list(tmp_path / "l.txt", tmp_path, check_files=False)
    assert (paths, labels, lines) == (["c", "d"], [2, 3], [3, 4]) and [line for line, _ in faults] == [1, 2]


def test_a_name_may_hold_what_unicode_calls_a_line_end(tmp_path):
    (tmp_path / "l.txt").write_bytes("a\x85b.jpg 0\r\nc\u2028d.jpg 1\r\n".encode())
    assert scan_list(tmp_path / "l.txt", tmp_path, check_files=False)[0] == ["a\x85b.jpg", "c\u2028d.jpg"]


def test_a_nul_in_a_folder_is_a_line_that_is_wrong(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"a\0b/c.jpg 0\n")
    with pytest.raises(DataError, match="l.txt:1"):
        read_list(tmp_path / "l.txt", tmp_path)


CONFIG = """
Global: {{output_dir: out, device: cpu}}
Arch: {{name: MobileNetV1_x0_25, class_num: 2}}
Loss: {{Train: [CELoss: {{}}], Eval: [CELoss: {{}}]}}
Optimizer: {{name: SGD, lr: {{name: Constant, learning_rate: 0.1}}}}
DataLoader:
  Train:
    dataset: {{name: ImageNetDataset, image_root: {root}, cls_label_path: {root}/t.txt, relabel: True,
      transform_ops: [DecodeImage: {{}}, NormalizeImage: {{order: ''}}]}}
    sampler: {{name: DistributedBatchSampler, batch_size: 2}}
  Eval:
    dataset: {{name: ImageNetDataset, image_root: {root}, cls_label_path: {root}/v.txt, relabel: True,
      transform_ops: [DecodeImage: {{}}, NormalizeImage: {{order: ''}}]}}
    sampler: {{name: DistributedBatchSampler, batch_size: 2}}
Metric: {{Eval: [TopkAcc: {{topk: [1]}}]}}
"""


def test_validation_is_numbered_as_training_is(photos):
    (photos / "t.txt").write_text("0.png 3\n1.png 7\n")
    (photos / "v.txt").write_text("2.png 7\n3.png 7\n")
    (photos / "c.yaml").write_text(CONFIG.format(root=photos).replace("name: Constant", "name: ConstLR"))
    config = load_config(photos / "c.yaml")

    def built(name, source):
        return build_dataset(source.dataset, config.arch.class_num, lists_of(config.train, config.eval)[name])

    assert built("train", config.train).samples.labels.tolist() == [0, 1]
    assert built("validation", config.eval).samples.labels.tolist() == [1, 1]
    (photos / "v.txt").write_text("2.png 7\n3.png 5\n")
    with pytest.raises(DataError, match=r"v.txt:2.* label 5"):
        built("validation", config.eval)


@pytest.mark.parametrize(
    ("text", "delimiter", "words"),
    [
        ("0.png,0\n1.png,1\n", None, "a comma separates.*delimiter: ','"),
        ("0.png, 0\n1.png, 1\n", None, "a comma separates.*delimiter: ','"),
        ("path;label\n0.png;0\n1.png;1\n", None, "a semicolon separates.*delimiter: ';'"),
        ("0.png|0\n1.png|1\n", None, "a vertical bar separates.*delimiter: '|'"),
        ("0.png 0\n1.png 1\n", ",", "a space separates path and label here, and a comma .*leave `delimiter` out"),
        ("0.png 0\n1.png,1\n", None, r"l.txt:2: no label .*a comma separates.*set `delimiter`"),
    ],
)
def test_another_separator_is_named_with_its_key(photos, text, delimiter, words):
    (photos / "l.txt").write_text(text)
    with pytest.raises(DataError, match=f"(?s){words.replace('|', '[|]')}"):
        read_list(photos / "l.txt", photos, delimiter=delimiter)
    if "path" not in text and ", " not in text and delimiter is None and text[5] != " ":
        assert len(read_list(photos / "l.txt", photos, delimiter=text[5])) == 2


def test_windows_backslashes_are_taken_where_the_file_is(photos):
    (photos / "a").mkdir()
    (photos / "0.png").rename(photos / "a/0.png")
    (photos / "l.txt").write_bytes(b"a\\0.png 0\r\n.\\1.png 1\r\n")
    assert [path for path, _ in read_list(photos / "l.txt", photos)] == [f"{photos}/a/0.png", f"{photos}/./1.png"]
    assert list_photos(photos, photos / "l.txt") == [f"{photos}/a/0.png", f"{photos}/./1.png"]
    (photos / "l.txt").write_bytes(b"b\\0.png 0\n")
    with pytest.raises(DataError, match="does not exist"):
        read_list(photos / "l.txt", photos)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((0, 1, 2), "-o Arch.class_num=3, if they are right"),
        ((1, 2, 1), "counts its 2 classes from 1: .*relabel=True"),
        ((0, 1, 700), "-o Arch.class_num=701 if .*only 3 of the labels"),
    ],
)
def test_more_classes_than_the_network_say_what_to_type(photos, labels, words):
    (photos / "l.txt").write_text("".join(f"{i}.png {label}\n" for i, label in enumerate(labels)))
    with pytest.raises(DataError, match=f"(?s)l.txt:.* is not below class_num 2.*{words}"):
        read_list(photos / "l.txt", photos, class_num=2)
    found = [f.message for f in doctor.examine({"train": Listed(photos / "l.txt", photos)}, class_num=2).findings]
    assert re.search(words, found[0])


def test_renumbered_labels_are_counted_too(photos):
    (photos / "l.txt").write_text("0.png 10\n1.png 20\n2.png 30\n")
    with pytest.raises(DataError, match="3 labels, and class_num is 2.*\n.*Arch.class_num=3"):
        read_list(photos / "l.txt", photos, relabel=True, class_num=2)


def test_a_missing_list_says_where_it_was_looked_for_and_what_writes_one(photos):
    with pytest.raises(DataError, match=f"looked for in {photos}.*\n.*split-dataset {photos} -o"):
        read_list(photos / "none.txt", photos)
    with pytest.raises(DataError, match="nowhere, which is no folder"):
        read_list(photos / "nowhere/none.txt", photos)


def test_a_tiff_that_claims_too_many_pixels_is_refused():
    entries = [(256, 4, 1, 25000), (257, 4, 1, 25000)]
    tiff = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    with pytest.raises(DataError, match="25000x25000"):
        decode_image(tiff)


def test_a_sliver_is_not_blown_up():
    resize = build_transforms([{"ResizeImage": {"resize_short": 256}}])
    with pytest.raises(DataError, match="256x3072000"):
        resize(np.zeros((12000, 1, 3), np.uint8))


def cached(photos, limit=10**9):
    paths = [str(photos / f"{n}.png") for n in range(6)]
    return paths, build_cache(photos / "cache", paths, limit)


@pytest.mark.parametrize("what", ["pixels short", "index short", "pixels gone", "index of an older kind"])
def test_a_damaged_cache_is_made_anew(photos, what):
    paths, cache = cached(photos)
    expected = [np.array(cache.get(path)) for path in paths]
    del cache
    pixels, index = photos / "cache/pixels.bin", photos / "cache/index.npz"
    if what == "pixels short":
        pixels.write_bytes(pixels.read_bytes()[:-100])
    elif what == "index short":
        index.write_bytes(index.read_bytes()[:200])
    elif what == "pixels gone":
        pixels.unlink()
    else:
        np.savez(index, paths=np.array(paths))
    assert len(DecodedCache(photos / "cache")) == 0
    paths, cache = cached(photos)
    assert all(np.array_equal(cache.get(path), image) for path, image in zip(paths, expected))


def test_a_cache_is_written_once(photos):
    """Also where photos stay out: one cannot be decoded, others have no room."""
    (photos / "5.png").write_bytes(b"")
    limit = 3 * 30 * 40 * 3
    paths, cache = cached(photos, limit)
    assert sum(path in cache for path in paths) == 3
    before = (photos / "cache/pixels.bin").stat().st_mtime_ns, (photos / "cache/index.npz").stat().st_mtime_ns
    cached(photos, limit)
    assert before == ((photos / "cache/pixels.bin").stat().st_mtime_ns, (photos / "cache/index.npz").stat().st_mtime_ns)
    paths, cache = cached(photos, limit // 3)
    assert sum(path in cache for path in paths) == 1
    cv2.imwrite(str(photos / "5.png"), np.zeros((30, 40, 3), np.uint8))
    paths, cache = cached(photos, 10**9)
    assert len(cache) == 6


def test_content_counts_though_size_and_time_are_kept(photos):
    import os

    path = photos / "a.bmp"
    cv2.imwrite(str(path), np.full((30, 40, 3), 10, np.uint8))
    status = path.stat()
    build_cache(photos / "c2", [str(path)], 10**9)
    cv2.imwrite(str(path), np.full((30, 40, 3), 20, np.uint8))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert build_cache(photos / "c2", [str(path)], 10**9).get(str(path))[0, 0, 0] == 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat\ndog\n", "2 lines are names without numbers.*`0 tench`.*in the order of the labels"),
        ("0,cat\n1,dog\n", "',' separates number and name.*Infer.PostProcess.delimiter=','"),
        ("0 cat\n1 dog\n2 cow\n", "names 3 classes, and Arch.class_num is 2.*-o Arch.class_num=3 if the list is right"),
        ("0 cat\n", "names 1 classes, and Arch.class_num is 2.*class_id_map_file=null"),
        (None, "label_list.txt' does not exist.*split-dataset.*null"),
        ("0\tcat\n1\tdog\n", None),
    ],
)
def test_a_training_looks_at_the_label_list_first(repo, tmp_path, text, words):
    if text is not None:
        (tmp_path / "label_list.txt").write_text(text)
    overrides = ["Arch.class_num=2", f"Infer.PostProcess.class_id_map_file={tmp_path}/label_list.txt"]
    config = load_config(repo / "configs/quick_start/MobileNetV2_finetune.yaml", overrides)
    told = config.labels, lists_of(config.train, config.eval), 2
    if words is None:
        check_labels(*told)
        assert class_names(*told) == ["cat", "dog"]
        return
    with pytest.raises(UserError) as caught:
        check_labels(*told)
    assert re.search(f"(?s){words}", str(caught.value))
