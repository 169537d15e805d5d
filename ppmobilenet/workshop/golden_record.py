"""Writing the golden record: one photo and what every stage made of it (``field/golden.py`` reads it)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ppmobilenet.field.golden import PICTURES, decodes_to_rgb, run_stages
from ppmobilenet.field.preprocessing import Ops
from ppmobilenet.photos.operators import build

LARGEST_SIDE = 1024


def synthetic_photo(height: int = 320, width: int = 400) -> bytes:
    """Return a PNG of smooth colours, edges and some noise, for exports on a machine without any photo."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    waves = [127 + 90 * np.sin(x / (17 + 9 * c) + c) * np.cos(y / (23 - 4 * c)) for c in range(3)]
    picture = np.stack(waves, axis=-1) + noise
    picture[height // 4 : height // 2, width // 3 : width // 2] = (30, 180, 220)
    return cv2.imencode(".png", np.clip(picture, 0, 255).astype(np.uint8))[1].tobytes()


def golden_photo(photo: bytes) -> tuple[bytes, str]:
    """Return a photo fit to travel with the package, and its suffix: JPEG or PNG, no side above 1024 pixels."""
    suffix = ".jpg" if photo[:3] == b"\xff\xd8\xff" else ".png" if photo[:8] == b"\x89PNG\r\n\x1a\n" else ""
    pixels = build([{"DecodeImage": {"to_rgb": False}}])(photo)
    height, width = pixels.shape[:2]
    scale = LARGEST_SIDE / max(height, width)
    if suffix and scale >= 1:
        return photo, suffix
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(), ".jpg"


def picture_to_png(pixels: np.ndarray, rgb: bool) -> bytes:
    """Encode a uint8 stage so that the file shows true colours."""
    return cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1] if rgb else pixels))[1].tobytes()


def write_golden(
    folder: Path, ops: Ops, photo: bytes, logits: np.ndarray, output: np.ndarray, output_int8: np.ndarray | None = None
) -> Mapping[str, object]:
    """Write ``golden/`` into a package folder and return its entry for package.json.

    Args:
        folder: the package being written.
        ops: the deployment transforms.
        photo: JPEG or PNG bytes, as :func:`golden_photo` gives them.
        logits: ``[class_num]`` of the model for that photo.
        output: ``[class_num]`` of what the forms declare to give for it.
        output_int8: the same of the int8 program, where there is one.
    """
    golden = folder / "golden"
    golden.mkdir()
    rgb = decodes_to_rgb(ops)
    suffix = ".jpg" if photo[:3] == b"\xff\xd8\xff" else ".png"
    entry: dict[str, object] = {"image": f"golden/image{suffix}"}
    (folder / str(entry["image"])).write_bytes(photo)
    after = run_stages(ops, photo)
    for stage in PICTURES:
        if stage in after:
            entry[stage] = f"golden/{stage}.png"
            (folder / str(entry[stage])).write_bytes(picture_to_png(after[stage], rgb))
    tensor = list(after.values())[-1]
    entry["tensor"], entry["tensor_shape"] = "golden/tensor.bin", [1, *tensor.shape]
    arrays = {"tensor": tensor, "logits": logits, "output": output, "output_int8": output_int8}
    for key, array in arrays.items():
        if array is None:
            continue
        if key != "tensor":
            array = array.astype(np.float32)
        entry[key] = f"golden/{key}.bin"
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
        (folder / str(entry[key])).write_bytes(little.tobytes())
    return entry
