"""``inference.yml``: what PaddleClas's and PaddleX's own predictors read, and what PaddleClas's exports leave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from ppmobilenet.deploy.preprocessing import Ops, deployment_ops, spell_out
from ppmobilenet.errors import DamagedFileError


def content(name: str, ops: Ops, labels: Sequence[str], topk: int) -> dict:
    """Return the content of inference.yml with the keys PaddleClas dumps and PaddleX reads.

    PaddleX knows only these operator and parameter names, wants ``order: ""`` and ``channel_num: 3``, and decodes to
    RGB itself, so DecodeImage appears only where that would be wrong (its reader then refuses, instead of answering
    with swapped channels). PaddleClas's ``deploy/python/predict_cls.py`` takes the file with
    ``-o PostProcess.main_indicator=Topk`` (PaddleX does not accept that key inside).
    """
    listed = []
    for op in spell_out(ops):
        parameters = {key: value for key, value in op.items() if key != "op"}
        if op["op"] == "DecodeImage":
            if not parameters["to_rgb"]:
                listed.append({"DecodeImage": parameters})
            continue
        if op["op"] == "ResizeImage":
            if parameters["interpolation"] == "bilinear" and parameters["backend"] == "cv2":
                del parameters["interpolation"], parameters["backend"]  # what both predictors do anyway
        if op["op"] in ("ResizeImage", "CropImage") and "size" in parameters:
            width, height = parameters["size"]
            parameters["size"] = width if width == height else [width, height]
        if op["op"] == "NormalizeImage":
            parameters.update(order="" if parameters["order"] == "hwc" else parameters["order"], channel_num=3)
        listed.append({op["op"]: parameters or None})
    return {
        "Global": {"model_name": name},
        "PreProcess": {"transform_ops": listed},
        "PostProcess": {"Topk": {"topk": min(topk, len(labels)), "label_list": list(labels)}},
    }


def read(folder: Path) -> tuple[dict, list[dict]]:
    """Return the content of inference.yml and its preprocessing, every parameter written out.

    Raises:
        DamagedFileError: it has not PaddleClas's shape.
    """
    path = folder / "inference.yml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        ops = deployment_ops([{k: v or {} for k, v in op.items()} for op in found["PreProcess"]["transform_ops"]])
        for op in ops:
            op.get("NormalizeImage", {}).pop("channel_num", None)
        if not isinstance(found["PostProcess"]["Topk"].get("label_list", []), list):
            raise TypeError("label_list is no list")
        return found, spell_out(ops)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DamagedFileError(
            f"inference.yml has not PaddleClas's shape ({type(error).__name__}: {error})",
            where=path,
            allowed="PreProcess.transform_ops and PostProcess.Topk",
        ) from error


def as_package(folder: Path) -> dict:
    """Make up the content of package.json for a folder that PaddleClas wrote."""
    found, ops = read(folder)
    topk = found["PostProcess"]["Topk"]
    labels = [str(label) for label in topk.get("label_list") or ()]
    forms = [
        {"name": name, "engine": engine, "precision": "fp32", "files": list(files)}
        for name, engine, files in (
            ("inference", "paddle", ("inference.json", "inference.pdiparams")),
            ("pdmodel", "paddle", ("inference.pdmodel", "inference.pdiparams")),
            ("onnx", "onnxruntime", ("inference.onnx",)),
        )
        if all((folder / file).is_file() for file in files)
    ]
    if not forms:
        raise DamagedFileError("there is no model beside inference.yml", where=folder)
    sizes = [op["size"] for op in ops if "size" in op] or [[224, 224]]
    width, height = sizes[-1]
    return {
        "name": (found.get("Global") or {}).get("model_name", folder.name),
        "class_num": len(labels),
        "topk": int(topk.get("topk", 5)),
        "labels": labels,
        "input": {"name": "x", "dtype": "float32", "layout": "NCHW", "shape": [-1, 3, height, width]},
        "output": {"kind": "unknown", "class_num": len(labels)},
        "preprocess": {"decoder": "opencv", "exif": "rotate", "rounding": "half-even", "ops": ops},
        "forms": forms,
        "files": [],
    }
