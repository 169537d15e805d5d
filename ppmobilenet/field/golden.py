"""The golden record: one photo and what every stage made of it, so that any machine can check itself."""

from __future__ import annotations

import cv2
import numpy as np

from ppmobilenet.field.decision import Decision
from ppmobilenet.field.preprocessing import Ops
from ppmobilenet.photos.operators import build

# operator -> the stage it is called in a report
STAGES = {
    "DecodeImage": "decode",
    "ResizeImage": "resize",
    "CropImage": "crop",
    "NormalizeImage": "normalise",
    "ToCHWImage": "normalise",
}
PICTURES = ("decode", "resize", "crop")


def run_stages(ops: Ops, photo: bytes) -> dict[str, np.ndarray]:
    """Return what the photo is after each stage, in order (``decode``, ``resize``, ``crop``, ``normalise``)."""
    value: bytes | np.ndarray = photo
    after = {}
    for op in ops:
        value = build([op])(value)
        after[STAGES[next(iter(op))]] = value
    return after


def png_to_picture(png: bytes, rgb: bool) -> np.ndarray:
    """Return the uint8 stage that a recorded picture, which shows true colours, stands for."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return pixels[:, :, ::-1] if rgb else pixels


def answer_of(decision: Decision, output: np.ndarray) -> dict:
    """Return what a decision makes of one photo's output, as the record keeps it."""
    best = decision.answer(decision.probabilities(output), (), "", 1)
    if decision.several:
        return {"class_ids": best.class_ids, "scores": best.scores}
    return {"class_id": best.class_ids[0], "score": best.scores[0], "unsure": bool(best.unsure)}


def decodes_to_rgb(ops: Ops) -> bool:
    return next((op["DecodeImage"].get("to_rgb", True) for op in ops if "DecodeImage" in op), True)
