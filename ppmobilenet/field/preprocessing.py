"""Preprocessing as a package holds it: PaddleClas's list of operators <-> the one with everything written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppmobilenet.errors import UserError
from ppmobilenet.photos.operators import IMAGENET_MEAN, IMAGENET_STD

# what a PaddleClas operator does when a parameter is not given; written out so that no reader has to know it
OP_DEFAULTS = {
    "DecodeImage": {"to_rgb": True},
    "ResizeImage": {"interpolation": "bilinear", "backend": "cv2"},
    "CropImage": {},
    "NormalizeImage": {
        "scale": 1.0 / 255.0,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "order": "chw",
    },
    "ToCHWImage": {},
}

Ops = Sequence[Mapping[str, Mapping]]  # PaddleClas's shape: [{"ResizeImage": {"resize_short": 256}}, ...]


def spell_out(ops: Ops) -> list[dict]:
    """Return the operators as package.json holds them: ``{"op": name, **every parameter}``."""
    spelled = []
    for entry in ops:
        ((name, given),) = entry.items()
        if name not in OP_DEFAULTS:
            raise UserError(
                f"the evaluation transform {name!r} cannot go into a package",
                where="DataLoader.Eval.dataset.transform_ops",
                allowed=", ".join(OP_DEFAULTS),
                hint="only what every predictor (Python, C++, PaddleClas) computes alike is allowed there",
            )
        given = dict(given or {})
        if "order" in given:
            given["order"] = given["order"] or "hwc"  # anything but "chw" means HWC
        given = {key: value for key, value in given.items() if value is not None}
        op = {"op": name, **OP_DEFAULTS[name], **given}
        if name == "DecodeImage":
            if op.pop("channel_first", False):
                raise UserError("DecodeImage.channel_first: True cannot go into a package", hint="use ToCHWImage")
            op = {"op": name, "to_rgb": bool(op["to_rgb"])}
        if name in ("ResizeImage", "CropImage") and isinstance(op.get("size"), (int, float)):
            op["size"] = [int(op["size"])] * 2
        if name == "ResizeImage":
            op.pop("return_numpy", None)
            op.update(interpolation=op["interpolation"].lower(), backend=op["backend"].lower())
            if op["interpolation"] == "random":  # which evaluation, without a generator, takes for bilinear
                op["interpolation"] = "bilinear"
            if op.get("resize_short"):
                op.pop("size", None)
            else:
                op.pop("resize_short", None)
        if name == "NormalizeImage":
            op = {key: op[key] for key in ("op", "scale", "mean", "std", "order")}
            op["scale"] = float(op["scale"])
        spelled.append(op)
    return spelled


def as_transform_ops(spelled: Sequence[Mapping]) -> list[dict[str, dict]]:
    """The inverse of :func:`spell_out`: PaddleClas's shape, as ``photos.operators.build`` takes it."""
    return [{op["op"]: {key: value for key, value in op.items() if key != "op"}} for op in spelled]


def deployment_ops(ops: Ops) -> list[dict[str, dict]]:
    """Return an Eval transform list as a predictor needs it: decoding first, HWC -> CHW last.

    PaddleClas's datasets transpose after the last Eval transform, so the list itself has no ToCHWImage.
    """
    ops = [dict(entry) for entry in ops]
    names = [next(iter(entry)) for entry in ops]
    if "DecodeImage" not in names:
        ops.insert(0, {"DecodeImage": {"to_rgb": True}})
    if "ToCHWImage" not in names:
        ops.append({"ToCHWImage": {}})
    return ops
