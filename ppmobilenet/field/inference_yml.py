"""``inference.yml``: what PaddleClas's and PaddleX's own predictors read, and what PaddleClas's exports leave.

PaddleX 3.7.2 takes the folder with any form that it finds: ``create_model(MODEL_NAME, model_dir=FOLDER)`` with the
``Global.model_name`` of the file, ``engine="onnxruntime"`` for ONNX.

PaddleClas 2.6.0's ``deploy/python/predict_cls.py`` takes it with ``-c FOLDER/inference.yml -o
Global.inference_model_dir=FOLDER -o PostProcess.main_indicator=Topk`` (PaddleX does not accept that key inside) and the
other ``Global`` keys of its ``deploy/configs/inference_cls.yaml``. On Paddle 3.3.1 it needs ``FLAGS_enable_pir_api=0``
in the environment and the ``pdmodel`` form (the ``.json`` kind fails in its ``enable_memory_optim``), or
``Global.use_onnx=True`` and the ``onnx`` form.

Neither computes a softmax: the scores of a package whose forms give logits are logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ppmobilenet.errors import DamagedFileError
from ppmobilenet.field.preprocessing import Ops, deployment_ops, spell_out
from ppmobilenet.photos.operators import pair

# Family -> the networks that PaddleX has registered; the first one's name is given for the others of the family, since
# PaddleX does nothing with the name but look it up.
PADDLEX_NAMES = {
    family: tuple(f"{family}_{member}" for member in members.split())
    for family, members in {
        "MobileNetV1": "x1_0 x0_25 x0_5 x0_75",
        "MobileNetV2": "x1_0 x0_25 x0_5 x1_5 x2_0",
        "MobileNetV3_large": "x1_0 x0_35 x0_5 x0_75 x1_25",
        "MobileNetV3_small": "x1_0 x0_35 x0_5 x0_75 x1_25",
        "MobileNetV4_conv": "medium small large",
        "MobileNetV4_hybrid": "medium large",
    }.items()
}

# what PaddleX does, whatever the order in the file
PADDLEX_STEPS = ("ResizeImage", "CropImage", "NormalizeImage", "ToCHWImage")
# what both programs call alike, by the library that resizes: PaddleX says linear and lanczos4 for bilinear and lanczos
# of OpenCV, lanczos4 for Pillow's lanczos, and has no hamming
_INTERPOLATIONS = {"cv2": ("nearest", "bicubic", "area"), "pil": ("nearest", "bilinear", "bicubic", "box")}


def paddlex_name(name: str) -> str | None:
    """Return what PaddleX calls a network (``"MobileNetV2"`` -> ``"MobileNetV2_x1_0"``), None if it has no such one."""
    for family, registered in PADDLEX_NAMES.items():
        if name == family or name.startswith(f"{family}_"):
            return name if name in registered else registered[0]
    return None


def _steps(ops: Ops) -> tuple[bool, list[dict]]:
    """Return whether photos are decoded to RGB, and what follows, as package.json holds it.

    Normalisation of CHW is put as that of HWC in front of ToCHWImage, which gives the same numbers.
    """
    spelled = spell_out(ops)
    rgb = all(op["to_rgb"] for op in spelled if op["op"] == "DecodeImage")
    steps = [op for op in spelled if op["op"] != "DecodeImage"]
    if [op["op"] for op in steps[-2:]] == ["ToCHWImage", "NormalizeImage"] and steps[-1]["order"] == "chw":
        steps[-2:] = [{**steps[-1], "order": "hwc"}, steps[-2]]
    return rgb, steps


def _usual(resize: Mapping) -> bool:
    """Whether it is what both programs do where nothing is said."""
    return (resize["backend"], resize["interpolation"]) == ("cv2", "bilinear")


def why_not(name: str, ops: Ops) -> dict[str, str]:
    """Return which programs cannot take a package, and why: ``"PaddleX"`` and ``"PaddleClas"`` -> the reason.

    Args:
        name: of the network.
        ops: the deployment transforms.
    """
    rgb, steps = _steps(ops)
    if not rgb:
        return dict.fromkeys(("PaddleX", "PaddleClas"), "it decodes to RGB, the package wants BGR (to_rgb: False)")
    names = [op["op"] for op in steps]
    if paddlex_name(name) is None:
        reason = f"it knows no network {name!r}"
    elif names not in (list(PADDLEX_STEPS), [step for step in PADDLEX_STEPS if step != "CropImage"]):
        reason = (
            f"it does {', '.join(PADDLEX_STEPS)} (CropImage may be left out), each once and in this order; "
            f"the package does {', '.join(names)}"
        )
    elif steps[-2]["order"] != "hwc":
        reason = "it normalises HWC in front of ToCHWImage, the package CHW (order: chw)"
    elif not _usual(steps[0]) and steps[0]["interpolation"] not in _INTERPOLATIONS[steps[0]["backend"]]:
        reason = (
            f"it has not {steps[0]['backend']}'s {steps[0]['interpolation']!r} by the name that PaddleClas gives it"
        )
    else:
        return {}
    return {"PaddleX": reason}


def content(name: str, ops: Ops, labels: Sequence[str], topk: int) -> dict | None:
    """Return the content of inference.yml with the keys PaddleClas dumps and PaddleX reads.

    PaddleX knows only these operator and parameter names, wants ``order: ""`` and ``channel_num: 3``, and decodes to
    RGB itself. Some of what it cannot do it would do otherwise without a word (two resizes, a crop in front of the
    resize), so what :func:`why_not` names is kept from it by a ``model_name`` that it has not registered.

    Returns:
        None if neither program can do what the package does.
    """
    reasons = why_not(name, ops)
    if "PaddleClas" in reasons:
        return None
    theirs = paddlex_name(name)
    if reasons:
        theirs = name if theirs != name else f"{name} (not for PaddleX)"
    listed = []
    for op in _steps(ops)[1]:
        parameters = {key: value for key, value in op.items() if key != "op"}
        if op["op"] == "ResizeImage" and _usual(op):
            del parameters["interpolation"], parameters["backend"]
        if op["op"] in ("ResizeImage", "CropImage") and "size" in parameters:
            width, height = parameters["size"]
            parameters["size"] = width if width == height else [width, height]
        if op["op"] == "NormalizeImage":
            parameters.update(order="" if parameters["order"] == "hwc" else parameters["order"], channel_num=3)
        listed.append({op["op"]: parameters or None})
    return {
        "Global": {"model_name": theirs},
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
        topk, spelled = found["PostProcess"]["Topk"], spell_out(ops)
        if not isinstance(topk.get("label_list") or [], list):
            raise TypeError("label_list is no list")
        # what as_package reaches for
        int(topk.get("topk", 5)), dict(found.get("Global") or {}), [pair(op["size"]) for op in spelled if "size" in op]
        return found, spelled
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
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
