"""Every bad list and photo is named by the doctor, skipped by training within bounds, and fails evaluation."""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_helpers import data, scene

from ppmobilenet.cli import main
from ppmobilenet.data import doctor, findings
from ppmobilenet.data.dataset import ImageNetDataset, Listed
from ppmobilenet.data.lists import read_list
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.facts import groups, look

Image = pytest.importorskip("PIL.Image")
OPS = [{"DecodeImage": {}}, {"RandCropImage": {"size": 16}}, {"NormalizeImage": {"order": ""}}]


@pytest.fixture
def photos(tmp_path) -> Path:
    for label in range(3):
        (tmp_path / f"class{label}").mkdir()
        for i in range(4):
            (tmp_path / f"class{label}/{i}.jpg").write_bytes(data(scene(10 * label + i), quality=95))
    return tmp_path


def examine(lists: dict, root: Path, **asked) -> doctor.Diagnosis:
    return doctor.examine({name: Listed(path, root) for name, path in lists.items()}, **asked)


def listed(root: Path, name: str = "train.txt", extra: str | bytes = "") -> Path:
    lines = "".join(f"class{c}/{i}.jpg {c}\n" for c in range(3) for i in range(4))
    path = root / name
    path.write_bytes(lines.encode() + (extra if isinstance(extra, bytes) else extra.encode()))
    return path


def kinds(diagnosis) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in diagnosis.findings:
        found.setdefault(finding.kind, []).append(f"{finding.where}: {finding.message}")
    return found


def test_a_good_set_is_clean(photos):
    diagnosis = examine({"train": listed(photos)}, photos, class_num=3)
    assert not diagnosis.findings
    facts = diagnosis.facts["train"]
    assert facts["photos"] == 12 and facts["classes"] == 3 and facts["median_size"] == [64, 64]
    pixels = np.stack([cv2.imread(str(photos / f"class{c}/{i}.jpg"))[..., ::-1] for c in range(3) for i in range(4)])
    assert np.allclose(facts["mean"], pixels.reshape(-1, 3).mean(0) / 255, atol=0.005)
    assert np.allclose(facts["std"], pixels.reshape(-1, 3).std(0) / 255, atol=0.005)


# what stands in line 13 -> (kind, important words)
LINES = {
    "# comment": ("line", "comment"),
    "class0/0.jpg": ("line", "no label"),
    "class0/0.jpg 1.0": ("line", "not a whole number"),
    "class0/0.jpg cat": ("line", "not a whole number"),
    "class0/0.jpg -2": ("line", "negative"),
    "class0/0.jpg 3": ("line", "allowed: 0 to 2"),
    "class0/0.jpg 99999999999999999999": ("line", "allowed: 0 to 2"),
    "class0/9.jpg 0": ("line", "does not exist"),
    "class0 0": ("unreadable", "a folder, not a photo"),
    "class0/0.jpg 0": ("repeated line", "train.txt:1"),
    "./class0/0.jpg 0": ("repeated line", "train.txt:1"),
    "class0/0.jpg 1": ("label conflict", "label 1, but .*train.txt:1 gives the same photo label 0"),
}


@pytest.mark.parametrize("line", LINES)
def test_bad_lines(photos, line):
    kind, words = LINES[line]
    diagnosis = examine({"train": listed(photos, extra=line + "\n")}, photos, class_num=3)
    (found,) = [f for f in diagnosis.findings if f.kind == kind]
    assert found.where == f"{photos}/train.txt:13"
    assert re.search(words, found.message)


def test_harmless_forms_are_no_findings(photos):
    text = listed(photos).read_text()
    (photos / "train.txt").write_bytes(("\ufeff" + text.replace(" ", "\t").replace("\n", "\r\n") + "\r\n\r\n").encode())
    assert not examine({"train": photos / "train.txt"}, photos, class_num=3).findings


def test_whole_lists(photos):
    (photos / "empty.txt").write_text("\n")
    (photos / "latin.txt").write_bytes(b"caf\xe9.jpg 0\n")
    for path, words in (
        (photos / "empty.txt", "no good line"),
        (photos / "latin.txt", "not UTF-8"),
        (photos / "none.txt", "does not exist"),
        (photos / "class0", "a folder, not a list"),
    ):
        diagnosis = examine({"train": path}, photos)
        assert words in kinds(diagnosis)["list"][0] and diagnosis.errors == 1
    (photos / "one.txt").write_text("class0/0.jpg 5\n")
    found = kinds(examine({"train": photos / "one.txt"}, photos))
    assert "one label" in found["class balance"][0] and "0, 1, 2, 3, 4" in found["label gap"][0]
    (photos / "val.txt").write_text("class0/0.jpg 0\nclass1/1.jpg 7\n")
    found = kinds(examine({"train": listed(photos), "validation": photos / "val.txt"}, photos))
    assert "val.txt:2: no photo of the training list has the label 7" in found["unseen label"][0]
    assert "train.txt:1" in found["in train and validation"][0]
    big = "".join(f"class0/0.jpg 0\nclass1/{i % 4}.jpg 1\n" for i in range(1))
    (photos / "far.txt").write_text(big + "class2/0.jpg 2000000000\n")
    assert "label 2, 3, 4" in kinds(examine({"train": photos / "far.txt"}, photos, photos=False))["label gap"][0]


def test_names(photos):
    nfd = unicodedata.normalize("NFD", "é.jpg")
    for name in (nfd, "a=b #'c'.jpg", "con.jpg", "a:b.jpg", "UP.jpg", "up.jpg", "x" * 230 + ".jpg"):
        (photos / name).write_bytes(data(scene(len(name))))
    names = [nfd, "a=b #'c'.jpg", "con.jpg", "a:b.jpg", "UP.jpg", "up.jpg", "x" * 230 + ".jpg"]
    path = listed(photos, extra="".join(f"{name} 0\n" for name in names))
    found = kinds(examine({"train": path}, photos, photos=False))
    assert set(found) == {"unsafe name"}
    lines = [int(text.split("train.txt:")[1].split(":")[0]) for text in found["unsafe name"]]
    assert lines == [13, 15, 16, 18, 19]
    path.write_text(unicodedata.normalize("NFC", nfd) + " 0\n", encoding="utf-8")
    with pytest.raises(DataError, match="form NFD"):
        read_list(path, photos)


def bad_photos(root: Path) -> dict[str, str]:
    """Write what nobody can decode; name -> important words."""
    jpeg = data(scene(1, 200))
    contents = {
        "zero.jpg": (b"", "empty"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated or damaged"),
        "html.jpg": (b"<!DOCTYPE html><html><body>404", "web page"),
        "bomb.png": (b"\x89PNG\r\n\x1a\n" + bytes(8) + (50000).to_bytes(4, "big") * 2 + bytes(50), "50000x50000"),
        "text.png": (b"not a photo at all", "not a photo"),
    }
    for name, (content, _) in contents.items():
        (root / name).write_bytes(content)
    words = {name: said for name, (_, said) in contents.items()}
    os.symlink("loop.jpg", root / "loop.jpg")
    words["loop.jpg"] = "symbolic link|does not exist"
    if os.geteuid():
        (root / "closed.jpg").write_bytes(jpeg)
        (root / "closed.jpg").chmod(0)
        words["closed.jpg"] = "ermission"
    return words


@pytest.mark.parametrize("pipeline", ["exact", "fast"])
def test_bad_photos(photos, pipeline, caplog):
    words = bad_photos(photos)
    path = listed(photos, extra="".join(f"{name} 0\n" for name in words))
    found = kinds(examine({"train": path}, photos))["unreadable"]
    assert len(found) == len(words)
    for line, (name, said) in enumerate(words.items(), 13):
        (text,) = [f for f in found if f.startswith(f"{path}:{line}:")]
        assert name in text and re.search(said, text)
    dataset = ImageNetDataset(str(photos), str(path), OPS)
    # evaluation: the first one fails it
    with pytest.raises(DataError, match="train.txt:13: .*zero.jpg"):
        list(Loader(dataset, DistributedBatchSampler(4), pipeline=pipeline))
    # training: skipped up to the number, with file and line, once
    loader = Loader(
        dataset, DistributedBatchSampler(10, shuffle=True), max_bad_samples=len(words), num_workers=1, pipeline=pipeline
    )
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert sum(len(batch.indices) for batch in loader) == 12
    loader.close()
    assert loader.bad_samples == len(words)
    for line, name in enumerate(words, 13):
        assert caplog.text.count(f"train.txt:{line}: ") == 1 and name in caplog.text
    with pytest.raises(DataError, match="more than max_bad_samples=1"):
        list(Loader(dataset, DistributedBatchSampler(10), max_bad_samples=1, pipeline=pipeline))


def odd_photos(root: Path) -> dict[str, tuple[str, str]]:
    """Write what is strange but can be used; name -> (mode, a word of its note)."""
    frames = [Image.fromarray(scene(i, 40)) for i in range(3)]
    image = scene(77)
    made = {
        "grey.jpg": (data(image, mode="L"), "grey", ""),
        "cmyk.jpg": (data(image, mode="CMYK"), "CMYK", ""),
        "rgba.png": (data(image, "PNG", "RGBA"), "alpha", ""),
        "la.png": (data(image, "PNG", "LA"), "grey with alpha", ""),
        "palette.png": (data(image, "PNG", "P"), "palette", ""),
        "renamed.jpg": (data(image, "PNG"), "colour", "it is a PNG"),
        "dot.png": (data(image[:1, :1], "PNG"), "colour", "1x1"),
        "line.png": (data(image[:1], "PNG"), "colour", "64x1"),
        "wide.png": (data(cv2.resize(image, (900, 40)), "PNG"), "colour", "centre crop"),
        "plain.png": (data(np.full((50, 50, 3), 9, np.uint8), "PNG"), "colour", "plain"),
        "webp.webp": (data(image, "WEBP"), "colour", ""),
    }
    for name, used in (("moving.gif", 2), ("moving.webp", 3), ("pages.tif", 2)):
        out = io.BytesIO()
        kind = {"gif": "GIF", "webp": "WEBP", "tif": "TIFF"}[name.split(".")[1]]
        frames[0].save(out, kind, save_all=True, append_images=frames[1:used])
        if kind != "GIF" or int(cv2.__version__.split(".")[0]) >= 5:  # older ones read no GIF
            made[name] = (out.getvalue(), "palette" if kind == "GIF" else "colour", f"{used} pictures in one {kind}")
    _, deep = cv2.imencode(".tiff", image.astype(np.uint16) * 257)
    made["deep.tif"] = (deep.tobytes(), "16-bit", "")
    out = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)).save(out, "PNG")
    made["deep.png"] = (out.getvalue(), "16-bit", "")
    for name, (content, _, _) in made.items():
        (root / name).write_bytes(content)
    return {name: (mode, note) for name, (_, mode, note) in made.items()}


def test_odd_photos_are_used_and_told(photos):
    for name, (mode, note) in odd_photos(photos).items():
        facts = look(str(photos / name))
        assert facts.fault is None and facts.mode == mode, name
        assert note in " ".join(facts.notes) and bool(note) == bool(facts.notes), name
    (photos / "odd.txt").write_text("".join(f"{name} 0\n" for name in odd_photos(photos)))
    for pipeline in ("exact", "fast"):
        dataset = ImageNetDataset(str(photos), str(photos / "odd.txt"), OPS)
        (batch,) = Loader(dataset, DistributedBatchSampler(64), pipeline=pipeline)
        assert batch.images.shape == (len(odd_photos(photos)), 3, 16, 16) and np.isfinite(batch.images).all()


def test_exif_rotation_is_counted(photos):
    exif = Image.Exif()
    exif[274] = 6
    (photos / "turned.jpg").write_bytes(data(scene(5)[:40], exif=exif))
    assert look(str(photos / "turned.jpg")).size == (40, 64)
    for name, kind in (("turned.png", "PNG"), ("turned.webp", "WEBP"), ("turned.tif", "TIFF")):
        (photos / name).write_bytes(data(scene(5)[:40], kind, exif=exif))
        facts = look(str(photos / name))
        assert facts.orientation == 6 and facts.kind == kind, name
    diagnosis = examine({"train": listed(photos, extra="turned.jpg 0\n")}, photos)
    assert diagnosis.facts["train"]["kinds"]["EXIF rotation 6"] == 1


def test_a_photo_removed_during_the_run(photos):
    dataset = ImageNetDataset(str(photos), str(listed(photos)), OPS)
    (photos / "class1/2.jpg").unlink()
    with pytest.raises(DataError, match="train.txt:7: .*class1/2.jpg: the photo does not exist"):
        list(Loader(dataset, DistributedBatchSampler(4)))


def test_duplicates(photos):
    original = scene(20, 120)
    (photos / "first.jpg").write_bytes(data(original, quality=95))
    (photos / "copy.jpg").write_bytes(data(original, quality=95))
    (photos / "smaller.jpg").write_bytes(data(cv2.resize(original, (90, 90)), quality=70))
    path = listed(photos, extra="first.jpg 0\n")
    (photos / "val.txt").write_text("copy.jpg 1\nsmaller.jpg 0\n")
    found = kinds(examine({"train": path, "validation": photos / "val.txt"}, photos))
    assert "val.txt:1" in found["label conflict"][0] and "has label 0, not 1" in found["label conflict"][0]
    assert any("val.txt:2" in text and "nearly the same" in text for text in found["in train and validation"])
    (photos / "both.txt").write_text("first.jpg 0\ncopy.jpg 0\nsmaller.jpg 0\n")
    found = kinds(examine({"train": photos / "both.txt"}, photos))
    assert "both.txt:2" in found["exact duplicate"][0] and "both.txt:3" in found["near duplicate"][0]


def test_fixed_lists_share_no_photo_and_contradict_nowhere(photos):
    """A contradiction leaves both lists, an equal photo one, what validation shows too leaves training."""
    pictures = {name: scene(seed, 120) for seed, name in enumerate(("doubted", "equal", "leak", "seen"), 40)}
    for name, pixels in pictures.items():
        (photos / f"{name}.jpg").write_bytes(data(pixels, quality=95))
        (photos / f"{name} copy.jpg").write_bytes(data(pixels, quality=95))
    (photos / "seen small.jpg").write_bytes(data(cv2.resize(pictures["seen"], (80, 80)), quality=80))
    train = listed(
        photos,
        extra="doubted.jpg 0\ndoubted copy.jpg 1\nequal.jpg 0\nequal copy.jpg 0\nleak.jpg 0\nseen small.jpg 2\n"
        "class0/0.jpg 2\n",
    )
    val = photos / "val.txt"
    val.write_text("leak.jpg 0\nleak copy.jpg 0\nseen.jpg 2\nclass1/0.jpg 1\n")
    lists = {"train": train, "validation": val}
    findings.write_fixed(examine(lists, photos), photos / "out")
    lists = {name: photos / "out" / path.name for name, path in lists.items()}
    names = {name: [line.rsplit(" ", 1)[0] for line in path.read_text().splitlines()] for name, path in lists.items()}
    assert names["validation"] == ["leak.jpg", "leak copy.jpg", "seen.jpg", "class1/0.jpg"]
    left = [f"class{c}/{i}.jpg" for c in range(3) for i in range(4) if (c, i) not in ((0, 0), (1, 0))]
    assert names["train"] == [*left, "equal.jpg"]
    again = examine(lists, photos)
    assert not again.errors and set(again.counts) <= {"exact duplicate"}


def test_the_list_part_finds_the_same_path_in_both_lists(photos):
    (photos / "val.txt").write_text("./class0/1.jpg 0\nclass2/3.jpg 1\n")
    diagnosis = examine({"train": listed(photos), "validation": photos / "val.txt"}, photos, photos=False)
    found = kinds(diagnosis)
    assert "val.txt:1" in found["in train and validation"][0] and "train.txt:2" in found["in train and validation"][0]
    assert "val.txt:2" in found["label conflict"][0]


@pytest.mark.parametrize("bits", range(6))
def test_near_pairs_are_found_however_crowded_their_neighbourhood(bits):
    """Against comparing each with each, among hashes that share most of their bits as plain backgrounds do."""
    rng = np.random.default_rng(bits)
    pictures = rng.integers(1, 2**63, 600, dtype=np.uint64) & np.uint64(0x00FF_00F0_0F00_0FFF) | np.uint64(1 << 62)
    turned = pictures[:100].copy()
    for i in range(100):
        for bit in rng.choice(62, bits, replace=False):
            turned[i] ^= np.uint64(1) << np.uint64(bit)
    pictures = np.concatenate([pictures, turned, np.zeros(5, np.uint64)])
    digests = np.array([i.to_bytes(16, "big") for i in range(1, len(pictures) + 1)], "V16")
    _, alike = groups(digests, pictures, np.zeros((len(pictures), 48), np.uint8))
    distance = np.array([[bin(int(a ^ b)).count("1") for b in pictures] for a in pictures])
    linked = (distance <= 4) & (pictures != 0) & (pictures[:, None] != 0)
    expected = np.arange(len(pictures))
    for _ in range(50):
        expected = np.minimum(expected, np.where(linked, expected, len(pictures)).min(axis=1))
    assert np.array_equal(alike, np.where(pictures == 0, np.arange(len(pictures)), expected))


def test_a_hundred_thousand_photos_are_compared():
    rng = np.random.default_rng(0)
    count = 100_000
    digests = rng.integers(0, 256, (count, 16), dtype=np.uint8).view("V16").ravel()
    pictures = rng.integers(1, 2**63, count, dtype=np.uint64)
    pictures[1::1000], digests[5] = pictures[::1000], digests[4]
    same, alike = groups(digests, pictures, np.zeros((count, 48), np.uint8))
    assert np.flatnonzero(same != np.arange(count)).tolist() == [5]
    assert np.array_equal(alike[1::1000], np.arange(0, count, 1000))


def test_the_command_fixes_lists_and_shows_suspects(photos, capsys):
    words = bad_photos(photos)
    extra = "\ufeff".encode() + b"# x\r\nclass0/0.jpg 0\r\n" + b"".join(f"{n} 1\r\n".encode() for n in words)
    path = listed(photos, extra=extra)
    before = {p: p.stat().st_mtime_ns for p in photos.rglob("*.jpg") if not p.is_symlink()}
    out = photos / "out"
    options = ["--json", str(photos / "a.json"), "--html", str(photos / "a.html"), "--fix", str(out)]
    command = ["check-dataset", "--root", str(photos), "--list", str(path)]
    assert main([*command, *options]) == 3
    printed = capsys.readouterr().out
    assert "ERROR: unreadable" in printed and "zero.jpg" in printed and f"{len(words) + 1} errors" in printed
    report = json.loads((photos / "a.json").read_text())
    assert report["counts"]["unreadable"] == len(words) and report["errors"] == len(words) + 1
    assert "cannot be decoded" in (photos / "a.html").read_text()
    assert main(["check-dataset", "--root", str(photos), "--list", str(out / "train.txt"), "--strict"]) == 0
    assert len((out / "train.txt").read_text().splitlines()) == 12
    assert before == {p: p.stat().st_mtime_ns for p in photos.rglob("*.jpg") if not p.is_symlink()}
    (photos / "twice.txt").write_text("class0/0.jpg 0\nclass1/1.jpg 1\nclass0/0.jpg 0\n")
    command[-1] = str(photos / "twice.txt")
    assert main(command) == 0 and main([*command, "--strict"]) == 3
    assert main([*command, "--fix", str(photos)]) == 2
    assert main(["check-dataset"]) == 2
    assert main(["check-dataset", "--root", str(photos / "class0")]) == 3  # no class folders


def test_long_lists_keep_few_findings(photos):
    path = photos / "long.txt"
    path.write_text("".join(f"class{i % 3}/{i % 4}.jpg {i % 3}\n" for i in range(100_000)))
    diagnosis = examine({"train": path}, photos, photos=False)
    assert diagnosis.counts["repeated line"] == 100_000 - 12 and len(diagnosis.findings) <= findings.KEPT + 5


CONFIG = """
Global: {device: cpu, image_shape: [3, 32, 32], save_inference_dir: FOLDER/package, output_dir: FOLDER/output}
Arch: {name: MobileNetV1_x0_25, class_num: 3}
Loss: {Train: [{CELoss: {weight: 1.0}}], Eval: [{CELoss: {weight: 1.0}}]}
Optimizer: {name: Momentum, momentum: 0.9, lr: {name: Cosine, learning_rate: 0.1}}
DataLoader:
  Train: &data
    dataset:
      name: ImageNetDataset
      image_root: FOLDER
      cls_label_path: FOLDER/train.txt
      transform_ops:
        - DecodeImage: {to_rgb: True, channel_first: False}
        - ResizeImage: {size: 32}
        - NormalizeImage: {scale: 1.0/255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], order: ''}
    sampler: {name: DistributedBatchSampler, batch_size: 4, drop_last: False, shuffle: False}
    loader: {num_workers: 0}
  Eval: *data
Infer: {infer_imgs: FOLDER, PostProcess: {name: Topk, topk: 3, class_id_map_file: FOLDER/labels.txt}}
Metric: {Train: [{TopkAcc: {topk: [1]}}], Eval: [{TopkAcc: {topk: [1]}}]}
"""


def test_bad_and_odd_photos_in_evaluation_and_inference(photos, capsys):
    """Evaluation stops at file and line; inference answers every photo that can be decoded and names each other."""
    pytest.importorskip("paddle")
    (photos / "config.yaml").write_text(CONFIG.replace("FOLDER", str(photos)))
    (photos / "labels.txt").write_text("0 a\n1 b\n2 c\n")
    words = ["-c", str(photos / "config.yaml"), "--random-init"]
    listed(photos)
    assert main(["export", *words]) == 0
    (photos / "mixed").mkdir()
    odd, bad = odd_photos(photos / "mixed"), bad_photos(photos / "mixed")
    listed(photos, extra="".join(f"mixed/{name} 0\n" for name in odd))
    assert main(["eval", *words, "--no-report", "--json", str(photos / "eval.json")]) == 0
    listed(photos, extra="mixed/cut.jpg 0\n")
    capsys.readouterr()
    assert main(["eval", *words, "--no-report"]) == 3
    error = capsys.readouterr().err
    assert "train.txt:13" in error and "truncated" in error and "Traceback" not in error
    saved = photos / "answers.jsonl"
    command = ["infer", "-m", str(photos / "package"), "-i", str(photos / "mixed"), "--backend", "paddle"]
    assert main([*command, "--save", str(saved)]) == 3
    lines = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    answers = {os.path.basename(line["file_name"]): line for line in lines}
    assert all(len(answers[name]["class_ids"]) == 3 for name in odd)
    for name, said in bad.items():
        if name in answers:
            assert re.search(said, answers[name]["error"]), name
    assert {name for name in bad if name in answers} >= set(bad) - {"loop.jpg"}


def test_fix_keeps_lists_of_one_name_apart_and_replaces_nothing(photos):
    lists = {}
    for name in ("train", "validation"):
        lists[name] = photos / name / "list.txt"
        lists[name].parent.mkdir()
        lists[name].write_text(listed(photos).read_text())
    diagnosis = examine({"train": lists["train"]}, photos)
    diagnosis.dropped[str(lists["validation"])] = {1}
    written = findings.write_fixed(diagnosis, photos / "out")
    assert [path.name for path in written] == ["train_list.txt", "validation_list.txt"]
    assert len({len(path.read_text().splitlines()) for path in written}) == 2
    with pytest.raises(UserError, match="would replace"):
        findings.write_fixed(diagnosis, photos / "out")
    with pytest.raises(UserError, match="class folders and shards have no list"):
        findings.write_fixed(findings.Diagnosis(), photos / "out")


@pytest.mark.parametrize("read_photos", [True, False])
def test_fix_never_takes_a_class_out_of_training(photos, read_photos):
    """A class's last training photo stays, though validation shows it: validation gives it up."""
    lines = listed(photos).read_text().splitlines()
    one_class = [line for line in lines if line.endswith(" 1")]
    (photos / "t.txt").write_text("\n".join([line for line in lines if not line.endswith(" 1")] + one_class[:1]) + "\n")
    (photos / "v.txt").write_text("\n".join([*one_class[:1], *lines[:1]]) + "\n")
    lists = {"train": photos / "t.txt", "validation": photos / "v.txt"}
    train, validation = findings.write_fixed(examine(lists, photos, photos=read_photos), photos / "out")
    assert one_class[0] in train.read_text().splitlines() and one_class[0] not in validation.read_text()
    assert lines[0] not in train.read_text().splitlines() and lines[0] in validation.read_text()
    again = examine({"train": train, "validation": validation}, photos, photos=read_photos)
    assert not again.errors and "in train and validation" not in again.counts


def test_a_jpeg_that_is_damaged_inside_is_told(photos):
    pytest.importorskip("simplejpeg")
    rng = np.random.default_rng(0)
    data = bytearray(cv2.imencode(".jpg", rng.integers(0, 256, (200, 200, 3), np.uint8))[1].tobytes())
    (photos / "good.jpg").write_bytes(data)
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    (photos / "bad.jpg").write_bytes(data)
    found = kinds(examine({"train": listed(photos, extra="good.jpg 0\nbad.jpg 0\n")}, photos))["odd photo"]
    assert any("bad.jpg: damaged inside" in message for message in found)
    assert not any("good.jpg: damaged" in message for message in found)


def test_odd_options_are_said(photos, capsys):
    command = ["check-dataset", "--root", str(photos), "--list", str(listed(photos))]
    for more, words in (
        (["--delimiter", ""], "--delimiter is empty"),
        (["--html", str(photos / "train.txt" / "a.html")], "cannot write"),
    ):
        assert main([*command, *more]) == 2
        said = capsys.readouterr()
        assert words in said.out + said.err
    assert main([*command, "--workers", "-1"]) == 2
    assert "1 and above" in capsys.readouterr().err
