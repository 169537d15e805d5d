"""Where in a photo an answer came from, asked of a package alone: cover a place, and see what is left of the answer.

A package gives answers and no features, so this is an occlusion map (Zeiler and Fergus 2014), not a class activation
map; it works with every network, engine and precision, for as many runs of the model as it has places.
"""

from __future__ import annotations

import cv2
import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.field.predictor import Predictor
from ppmobilenet.photos.operators import build

PLACES = 7  # a side
AT_ONCE = 7  # covered pictures a run of the model, so that other callers get their turn between
SURE = 1e-6  # probabilities are kept this far from 0 and 1, whose odds are infinite


def occlusion(predictor: Predictor, photo: bytes, places: int = PLACES) -> tuple[np.ndarray, np.ndarray, int]:
    """Return where the best answer came from.

    Args:
        predictor: an opened package.
        photo: encoded.
        places: a side of the map.

    Returns:
        the picture that the network saw (uint8 RGB ``[H, W, 3]``); the map ``[places, places]``, 0 to 1: how far the
        log-odds of the answer fall where that place is blurred; the answer's class.

    Raises:
        DataError: the photo cannot be used.
        UserError: the package crops or resizes after its normalisation, so there is no such picture.
    """
    to_picture, to_input, rgb = _split(predictor)
    picture = to_picture(photo)
    blurred = cv2.GaussianBlur(picture, (0, 0), max(picture.shape[:2]) / 8)
    whole = predictor.probabilities(np.ascontiguousarray(to_input(picture))[None])[0]
    best = int(whole.argmax())
    covers = _covers(picture.shape[:2], places)
    left: list[float] = []
    for start in range(0, len(covers), AT_ONCE):
        covered = [_blend(picture, blurred, cover) for cover in covers[start : start + AT_ONCE]]
        batch = np.stack([np.ascontiguousarray(to_input(one)) for one in covered])
        left += predictor.probabilities(batch)[:, best].tolist()
    falls = np.maximum(_log_odds(whole[best]) - _log_odds(np.array(left)), 0).reshape(places, places)
    most = falls.max()
    return picture if rgb else picture[:, :, ::-1], falls / most if most > 0 else falls, best


def heat(fall: np.ndarray, size: tuple[int, int]) -> bytes:
    """Return a map as a PNG to lay over the picture: colour and opacity grow with it.

    Args:
        fall: 0 to 1, ``[places, places]``.
        size: the picture's (width, height).
    """
    share = np.clip(cv2.resize(fall.astype(np.float32), size, interpolation=cv2.INTER_CUBIC), 0, 1)
    colour = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_JET)
    return cv2.imencode(".png", np.dstack([colour, (160 * share).astype(np.uint8)]))[1].tobytes()


def _split(predictor: Predictor):
    """Return what makes the picture of a file, what makes the input of the picture, and whether that is RGB."""
    ops = predictor.package.ops
    names = [next(iter(op)) for op in ops]
    end = next((i for i, name in enumerate(names) if name in ("NormalizeImage", "ToCHWImage")), len(ops))
    if {"ResizeImage", "CropImage"} & set(names[end:]):
        raise UserError(
            f"no map can be made: the package's preprocessing is {', '.join(names)}",
            hint="resize and crop before NormalizeImage, and export again",
        )
    rgb = all((op.get("DecodeImage") or {}).get("to_rgb", True) for op in ops)
    return build(ops[:end]), build(ops[end:]), rgb


def _covers(shape: tuple[int, int], places: int) -> list[np.ndarray]:
    """Return the opacity of each cover: soft round ones, for an edge would be something to see by itself."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    step = np.array([height, width]) / places
    return [
        np.exp(-(((y - (row + 0.5) * step[0]) / step[0]) ** 2 + ((x - (column + 0.5) * step[1]) / step[1]) ** 2) / 1.3)
        for row in range(places)
        for column in range(places)
    ]


def _blend(picture: np.ndarray, blurred: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return np.rint(picture + (blurred.astype(np.float32) - picture) * cover[:, :, None]).astype(np.uint8)


def _log_odds(probability):
    kept = np.clip(probability, SURE, 1 - SURE)
    return np.log(kept / (1 - kept))
