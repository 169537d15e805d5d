"""The package folder: written whole or not at all, readable by OpenCV's FileStorage, and it notices every damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
import yaml

from ppmobilenet import files
from ppmobilenet.errors import DamagedFileError, DataError, UserError
from ppmobilenet.field import inference_yml, package
from ppmobilenet.field.preprocessing import deployment_ops, spell_out
from ppmobilenet.photos.labels import IMAGENET_LABELS, find_label_file, label_names, read_labels
from ppmobilenet.photos.operators import build
from ppmobilenet.workshop.folder import replacing

OPS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 40}},
    {"CropImage": {"size": 32}},
    {
        "NormalizeImage": {
            "scale": 1.0 / 255.0,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "order": "",
        }
    },
]
LABELS = ["dress", "Größe 中", 'a "quoted" \\ name']


def write(folder, ops=OPS):
    """A package whose model is a few bytes: everything but inference works on it."""
    (folder / "inference.onnx").write_bytes(b"model" * 10)
    meta = {
        "name": "Tiny",
        "class_num": 3,
        "topk": 2,
        "labels": LABELS,
        "input": {"name": "x", "dtype": "float32", "layout": "NCHW", "shape": [-1, 3, 32, 32]},
        "output": {"kind": "probabilities", "class_num": 3},
        "versions": {"ppmobilenet": "0"},
        "accuracy": [],
        "forms": [{"name": "onnx", "engine": "onnxruntime", "precision": "fp32", "files": ["inference.onnx"]}],
    }
    package.write_package(folder, meta, deployment_ops(ops))


@pytest.fixture
def written(tmp_path):
    with replacing(tmp_path / "out") as folder:
        write(folder)
    return tmp_path / "out"


def test_opens_with_all_that_was_written(written):
    opened = package.open_package(written)
    assert opened.labels == LABELS
    names = [next(iter(op)) for op in opened.ops]
    assert names == ["DecodeImage", "ResizeImage", "CropImage", "NormalizeImage", "ToCHWImage"]
    assert opened.ops[2] == {"CropImage": {"size": [32, 32]}}
    assert opened.files_of(opened.form("onnx"))[0].read_bytes() == b"model" * 10
    assert {entry["path"] for entry in opened.meta["files"]} == {"inference.onnx", "inference.yml"}


def test_opencv_file_storage_reads_it(written):
    storage = cv2.FileStorage(str(written / "package.json"), cv2.FILE_STORAGE_READ)
    labels = storage.getNode("labels")
    assert [labels.at(i).string() for i in range(labels.size())] == LABELS
    ops = storage.getNode("preprocess").getNode("ops")
    assert [ops.at(i).getNode("op").string() for i in range(ops.size())][0] == "DecodeImage"
    assert ops.at(3).getNode("scale").real() == pytest.approx(1 / 255)
    text = (written / "package.json").read_text(encoding="utf-8")
    assert "\\u" not in text and "null" not in text


@pytest.mark.parametrize(
    "value, message", [("x" * 2001, "2001 bytes"), ("a\nb", "control character"), ("$base64$", "control character")]
)
def test_what_file_storage_misreads_is_refused(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        package.dump_json({"labels": [value]}, tmp_path / "package.json")


@pytest.mark.parametrize("value, error", [(None, TypeError), (2**31, ValueError), (float("nan"), ValueError)])
def test_values_that_file_storage_misreads_are_never_written(tmp_path, value, error):
    with pytest.raises(error):
        package.dump_json({"a": value}, tmp_path / "package.json")


def test_inference_yml_has_the_keys_that_paddleclas_and_paddlex_read(written):
    content = yaml.safe_load((written / "inference.yml").read_text(encoding="utf-8"))
    assert content["Global"] == {"model_name": "Tiny"}
    ops = content["PreProcess"]["transform_ops"]
    assert [next(iter(op)) for op in ops] == ["ResizeImage", "CropImage", "NormalizeImage", "ToCHWImage"]
    assert ops[0] == {"ResizeImage": {"resize_short": 40}} and ops[1] == {"CropImage": {"size": 32}}
    assert ops[2]["NormalizeImage"]["order"] == "" and ops[2]["NormalizeImage"]["channel_num"] == 3
    assert content["PostProcess"] == {"Topk": {"topk": 2, "label_list": LABELS}}


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("MobileNetV1", "MobileNetV1_x1_0"),
        ("MobileNetV1_x0_25", "MobileNetV1_x0_25"),
        ("MobileNetV2_x0_75", "MobileNetV2_x1_0"),
        ("MobileNetV2_x2_0", "MobileNetV2_x2_0"),
        ("MobileNetV3_large_x1_25", "MobileNetV3_large_x1_25"),
        ("MobileNetV3_small_x0_6", "MobileNetV3_small_x1_0"),
        ("MobileNetV4_hybrid_large", "MobileNetV4_hybrid_large"),
        ("MobileNetV30", None),
        ("MobileNet", None),
        ("x", None),
    ],
)
def test_networks_go_by_paddlexs_names(ours, theirs):
    assert inference_yml.paddlex_name(ours) == theirs
    content = inference_yml.content(ours, deployment_ops(OPS), ["a"], 5)
    assert content["Global"]["model_name"] == (theirs or ours)
    assert ("PaddleX" in inference_yml.why_not(ours, deployment_ops(OPS))) == (theirs is None)


NORMALISE = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    "resize, written_as",
    [
        ({"size": 32}, {"size": 32}),
        ({"size": [40, 32]}, {"size": [40, 32]}),
        ({"resize_short": 40, "backend": "cv2", "interpolation": "random"}, {"resize_short": 40}),
        ({"size": 32, "backend": "PIL"}, {"size": 32, "backend": "pil", "interpolation": "bilinear"}),
        (
            {"size": 32, "backend": "pil", "interpolation": "BICUBIC"},
            {"size": 32, "backend": "pil", "interpolation": "bicubic"},
        ),
        ({"size": 32, "interpolation": "area"}, {"size": 32, "backend": "cv2", "interpolation": "area"}),
    ],
)
def test_resizing_is_written_in_words_that_both_programs_know(resize, written_as):
    ops = deployment_ops([{"ResizeImage": resize}, {"NormalizeImage": {**NORMALISE, "order": ""}}])
    assert inference_yml.why_not("MobileNetV2", ops) == {}
    listed = inference_yml.content("MobileNetV2", ops, ["a"], 1)["PreProcess"]["transform_ops"]
    assert listed[0] == {"ResizeImage": written_as}


def test_normalisation_of_chw_is_written_as_that_of_hwc():
    ops = deployment_ops([{"ResizeImage": {"size": 32}}, {"ToCHWImage": None}, {"NormalizeImage": NORMALISE}])
    assert inference_yml.why_not("MobileNetV1", ops) == {}
    listed = inference_yml.content("MobileNetV1", ops, ["a"], 1)["PreProcess"]["transform_ops"]
    assert [next(iter(op)) for op in listed] == ["ResizeImage", "NormalizeImage", "ToCHWImage"]
    photo = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    listed[1]["NormalizeImage"].pop("channel_num")
    ours, theirs = build(ops[1:])(photo), build(listed)(photo)
    assert ours.shape == (3, 32, 32) and np.array_equal(ours, theirs)


HWC = {"NormalizeImage": {"order": ""}}
RESIZE, CROP = {"ResizeImage": {"size": 32}}, {"CropImage": {"size": 32}}


@pytest.mark.parametrize(
    "ops, reason",
    [
        ([{"ResizeImage": {"size": 40}}, RESIZE, HWC], "each once and in this order"),
        ([CROP, RESIZE, HWC], "the package does CropImage, ResizeImage, NormalizeImage, ToCHWImage"),
        ([CROP, HWC], "the package does CropImage, NormalizeImage, ToCHWImage"),
        ([RESIZE], "the package does ResizeImage, ToCHWImage"),
        ([{"ResizeImage": {"size": 32, "interpolation": "lanczos"}}, HWC], "cv2's 'lanczos'"),
        ([{"ResizeImage": {"size": 32, "backend": "pil", "interpolation": "hamming"}}, HWC], "pil's 'hamming'"),
    ],
)
def test_a_chain_that_paddlex_would_do_otherwise_is_kept_from_it(ops, reason):
    """Two resizes, or a crop in front, it does wrong without a word: it must not know the name."""
    ops = deployment_ops(ops)
    assert reason in inference_yml.why_not("MobileNetV1_x0_25", ops)["PaddleX"]
    for name in ("MobileNetV1_x0_25", "MobileNetV1"):
        content = inference_yml.content(name, ops, ["a"], 1)
        assert inference_yml.paddlex_name(content["Global"]["model_name"]) != content["Global"]["model_name"]
        assert [next(iter(op)) for op in content["PreProcess"]["transform_ops"]] == [next(iter(op)) for op in ops[1:]]


def test_a_package_of_bgr_has_no_inference_yml(tmp_path):
    ops = deployment_ops([{"DecodeImage": {"to_rgb": False}}, *OPS[1:]])
    assert set(inference_yml.why_not("MobileNetV2", ops)) == {"PaddleX", "PaddleClas"}
    write(tmp_path, ops)
    assert not (tmp_path / "inference.yml").exists() and package.open_package(tmp_path).labels == LABELS


def test_a_changed_byte_a_missing_and_a_short_file_are_named(written):
    model = written / "inference.onnx"
    model.write_bytes(b"model" * 9 + b"modeL")
    opened = package.open_package(written)
    with pytest.raises(DamagedFileError, match=r"inference\.onnx.*changed after the export"):
        opened.files_of(opened.form("onnx"))
    model.write_bytes(b"model")
    with pytest.raises(DamagedFileError, match="has 5 bytes, the package says 50"):
        package.open_package(written).check_file("inference.onnx")
    model.unlink()
    with pytest.raises(DamagedFileError, match=r"'inference\.onnx' is missing"):
        package.open_package(written).check_file("inference.onnx")


def test_a_file_that_is_replaced_while_the_package_is_open_is_named(written):
    """What was checked once is checked again when it is another file: its labels would be the old ones."""
    opened = package.open_package(written)
    path = opened.meta["files"][0]["path"]
    opened.check_file(path)
    data = bytearray((written / path).read_bytes())
    data[-1] ^= 1
    (written / path).unlink()
    (written / path).write_bytes(data)
    with pytest.raises(DamagedFileError, match="was changed after the export"):
        opened.check_file(path)


def test_a_newer_a_foreign_and_a_broken_package_json(written):
    path = written / "package.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**meta, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99.*reads up to"):
        package.open_package(written)
    path.write_text(json.dumps({"format": "another"}))
    with pytest.raises(DamagedFileError, match="not a package"):
        package.open_package(written)
    path.write_text(json.dumps({"format": package.FORMAT, "format_version": 1}))
    with pytest.raises(DamagedFileError, match="lacks name"):
        package.open_package(written)
    path.write_text("{")
    with pytest.raises(DamagedFileError, match="not readable"):
        package.open_package(written)


@pytest.mark.parametrize(
    "old, new",
    [
        ("topk: 2", "topk: many"),
        ("topk: 2", "topk:"),
        ("model_name: Tiny", "- Tiny"),
        ("resize_short: 40", "size: [1, 2, 3]"),
        ("size: 32", "size: [a, b]"),
        ("scale: 0.00392156862745098", "scale: 1/255"),
        ("label_list:", "label_list: 3\n    others:"),
    ],
)
def test_an_inference_yml_of_another_shape_is_damage(written, old, new):
    (written / "package.json").unlink()  # as a folder that PaddleClas wrote
    (written / "inference.yml").write_bytes((written / "inference.yml").read_bytes().replace(b"(not for PaddleX)", b""))
    assert package.open_package(written).labels == LABELS
    text = (written / "inference.yml").read_text(encoding="utf-8")
    assert old in text
    (written / "inference.yml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DamagedFileError, match="inference.yml has not PaddleClas's shape"):
        package.open_package(written)


def test_a_failed_export_leaves_what_was_there(written):
    before = {p: p.read_bytes() for p in written.rglob("*") if p.is_file()}
    with pytest.raises(RuntimeError), replacing(written) as folder:
        (folder / "inference.onnx").write_bytes(b"half")
        raise RuntimeError("stopped")
    assert {p: p.read_bytes() for p in written.rglob("*") if p.is_file()} == before
    assert [p.name for p in written.parent.iterdir()] == ["out"]


def test_a_second_export_replaces_the_folder_whole(written):
    (written / "armv8_fp32.nb").write_bytes(b"of an export with other forms")
    with replacing(written) as folder:
        write(folder)
    assert sorted(p.name for p in written.iterdir()) == ["inference.onnx", "inference.yml", "package.json"]
    assert [p.name for p in written.parent.iterdir()] == ["out"]


def test_a_folder_with_other_files_is_refused(written):
    (written / "my notes.txt").write_text("mine")
    with pytest.raises(UserError, match="my notes.txt"), replacing(written):
        pass
    assert (written / "my notes.txt").read_text() == "mine"


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="not a folder"), replacing(tmp_path / "out"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_an_unwritable_folder_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write.*Permission denied"), replacing(tmp_path / "out"):
        pass


def test_a_full_disk_is_said_and_leaves_what_was_there(written):
    """A limit on file size stands for the full disk: the write fails in the middle, by the system's word."""
    script = f"""
        import resource, signal
        from ppmobilenet.workshop.folder import replacing
        from ppmobilenet.errors import UserError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with replacing({str(written)!r}) as folder:
                (folder / "inference.onnx").write_bytes(bytes(5000))
        except UserError as error:
            print(error)
    """
    before = {p: p.read_bytes() for p in written.rglob("*") if p.is_file()}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "nothing was changed there" in done.stdout
    assert {p: p.read_bytes() for p in written.rglob("*") if p.is_file()} == before
    assert [p.name for p in written.parent.iterdir()] == ["out"]


def test_the_leftover_of_a_killed_export_is_removed_by_the_next(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    mine = files.beside(tmp_path / "out")
    left = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")
    elsewhere = tmp_path / f".out.partial-{int(dead.stdout)}-another_machine-abc"
    for folder in (mine, left, elsewhere):
        folder.mkdir()
    with replacing(tmp_path / "out") as folder:
        write(folder)
    assert not left.exists() and mine.exists() and elsewhere.exists()


def test_a_transform_that_only_python_knows_is_refused():
    with pytest.raises(UserError, match="'RandFlipImage' cannot go into a package"):
        spell_out([{"RandFlipImage": {}}])


def test_golden_arrays_come_back(written):
    values = np.arange(3, dtype="<f4")
    (written / "golden").mkdir()
    (written / "golden/output.bin").write_bytes(values.tobytes())
    opened = package.open_package(written)
    opened.meta["golden"] = {"output": "golden/output.bin"}
    assert np.array_equal(opened.golden("output"), values)


# ---------------------------------------------------------------------------------------------------------------------
# labels


def test_paddleclas_label_path_resolves_to_the_packaged_list():
    path = find_label_file("ppcls/utils/imagenet1k_label_list.txt")
    assert path == IMAGENET_LABELS
    names = label_names(read_labels(path), 1000, where=path)
    assert names[0] == "tench, Tinca tinca" and names[999] == "toilet tissue, toilet paper, bathroom tissue"
    assert names.count("crane") == 2  # the bird and the machine: names are not unique


def test_label_files_of_all_kinds(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeff0 a b\r\n\r\n2 中文\r\n".encode())
    assert label_names(read_labels(path), 3, path) == ["a b", "class 1", "中文"]
    path.write_bytes("0 中文\n".encode("gbk"))
    assert read_labels(path) == {0: "中文"}
    path.write_text("0,x\n1,y\n")
    assert read_labels(path, ",") == {0: "x", 1: "y"}


@pytest.mark.parametrize(
    "text, message", [("0 a\nb 1\n", r"labels.txt:2.*class number.*'b 1'"), ("0 a\n0 b\n", "labels.txt:2.*twice")]
)
def test_bad_label_lines_are_named(tmp_path, text, message):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "labels.txt")


def test_classes_without_a_name_are_said(caplog):
    assert label_names({0: "a", 2: "c"}, 4, where="names.txt") == ["a", "class 1", "c", "class 3"]
    assert "names.txt: no name for 2 of 4 classes (class 1 is the first)" in caplog.text


def test_labels_of_another_model_are_refused():
    with pytest.raises(UserError, match="names class 999, but the model has 10 classes"):
        label_names({999: "z"}, 10, where="labels.txt")


def test_a_missing_label_file_says_how_to_set_it():
    with pytest.raises(UserError, match="class_id_map_file"):
        find_label_file("no/such/labels.txt")
