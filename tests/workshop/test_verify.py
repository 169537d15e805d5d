"""What a package that was changed, cut or exchanged is told by, and where it departs first."""

from __future__ import annotations

import json
import shutil

import pytest
from packages import LABELS, ops_for, paddle_3, photo

from ppmobilenet.cli import main
from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.field.package import dump_json, list_files, open_package
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.field.verify import verify
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model


def test_verify_passes_and_names_what_it_compared(exported):
    report = verify(exported, images=[photo(seed=seed) for seed in range(3)])
    assert report.passed and report.first_departure is None
    stages = {row.stage for row in report.rows}
    assert {"files", "decode", "resize", "crop", "normalise", "probabilities", "top-1"} <= stages
    assert "pdmodel-b1, openvino" in report.table()


@pytest.mark.parametrize(
    "change, stage",
    [
        (lambda ops: ops[1].update(interpolation="nearest"), "resize"),
        (lambda ops: ops[2].update(size=[32, 30]), "crop"),
        (lambda ops: ops[3].update(mean=[0.5, 0.5, 0.5]), "normalise"),
        (lambda ops: ops[0].update(to_rgb=False), "decode"),
    ],
)
def test_verify_names_the_first_stage_that_departs(plain, tmp_path, change, stage):
    copy = shutil.copytree(plain, tmp_path / "copy")
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    change(meta["preprocess"]["ops"])
    dump_json(meta, copy / "package.json")
    report = verify(copy)
    assert not report.passed and report.first_departure.stage == stage
    assert f"departs first at: {stage}" in report.table()


def test_verify_judges_the_other_forms_where_an_engine_refuses_one(exported, with_onnx, tmp_path, capsys):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "inference.onnx").write_bytes((with_onnx / "inference.onnx").read_bytes()[:-5000])
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    meta["forms"].insert(0, open_package(with_onnx).form("onnx"))
    meta["files"] = list_files(copy)
    dump_json(meta, copy / "package.json")
    assert main(["verify", str(copy), "--json", str(tmp_path / "v.json")]) == 5
    out = capsys.readouterr().out
    assert "FAIL: ONNX Runtime cannot open the model" in out and "departs first at: probabilities (onnx, onnxr" in out
    rows = json.loads((tmp_path / "v.json").read_text())["rows"]
    passed = {row["subject"]: row["passed"] for row in rows if row["stage"] == "probabilities"}
    assert passed.pop("onnx, onnxruntime") is False and len(passed) >= 2 and all(passed.values())


@paddle_3
def test_verify_finds_a_model_that_was_exchanged(exported, tmp_path):
    """Another network's files, with hashes to match: only the recorded answer can tell."""
    other = make_package(
        create_model("MobileNetV2_x0_25", class_num=len(LABELS)),
        PackageSpec(name="x", ops=ops_for(32), labels=LABELS, photos=[photo()]),
        tmp_path / "other",
    )
    copy = shutil.copytree(exported, tmp_path / "copy")
    for name in ("inference.json", "inference.pdmodel", "inference.pdiparams"):
        shutil.copy(other / name, copy / name)
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    meta["files"] = list_files(copy)
    dump_json(meta, copy / "package.json")
    report = verify(copy)
    assert report.first_departure.stage == "probabilities"


def test_a_damaged_package_is_refused(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    blob = bytearray((copy / "inference.pdiparams").read_bytes())
    blob[1000] ^= 1
    (copy / "inference.pdiparams").write_bytes(blob)
    with pytest.raises(DamagedFileError, match=r"inference\.pdiparams.*changed after the export"):
        Predictor(copy, backend="paddle")
    with pytest.raises(DamagedFileError, match=r"inference\.pdiparams"):
        verify(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta["labels"].__setitem__(2, "another name"),
        lambda meta: meta["labels"].__delitem__(slice(5, None)),
        lambda meta: meta["output"].update(kind="logits"),
        lambda meta: meta["files"].pop(),
        lambda meta: meta.pop("sha256"),
    ],
)
def test_a_changed_package_json_is_said(plain, tmp_path, change):
    copy = shutil.copytree(plain, tmp_path / "copy")
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    change(meta)
    (copy / "package.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(DamagedFileError, match=r"package.json was changed after the export"):
        Predictor(copy)
    report = verify(copy)
    assert report.first_departure.stage == "files" and "changed after the export" in report.table()


def test_a_package_without_its_package_json_is_incomplete(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "package.json").unlink()
    with pytest.raises(DamagedFileError, match="package.json is missing"):
        Predictor(copy)


@paddle_3
def test_a_missing_file_is_said_by_whoever_does_without_it(exported, tmp_path, caplog):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "inference.json").unlink()
    assert Predictor(copy, backend="openvino")(photo()).scores
    assert "inference.json missing; answers come from pdmodel-b1" in caplog.text
    predictor = Predictor(copy, backend="paddle")
    assert predictor.form["name"] == "pdmodel" and "inference.json missing; answers come from pdmodel\n" in caplog.text
    (copy / "inference.pdmodel").unlink()
    with pytest.raises(DamagedFileError, match="'inference.json' is missing"):
        Predictor(copy, backend="paddle")


def test_an_operator_of_a_later_version_is_named(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    meta = json.loads((copy / "package.json").read_text(encoding="utf-8"))
    meta["preprocess"]["ops"].insert(1, {"op": "Sharpen"})
    dump_json(meta, copy / "package.json")
    for use in (Predictor, verify):
        with pytest.raises(UserError, match="the operator 'Sharpen'"):
            use(copy)
