"""Network inputs as pictures again: for looking at batches, and at what a network saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ppmobilenet.photos.operators import NormalizeImage


def pictures(images: np.ndarray, ops: Sequence[Mapping]) -> np.ndarray | None:
    """Return the uint8 RGB pictures [N, H, W, 3] behind normalised images.

    Args:
        images: float32 [N, 3, H, W].
        ops: the transforms that made them; their NormalizeImage is undone.

    Returns:
        None if there is no NormalizeImage among them: their scale is then unknown.
    """
    found = [NormalizeImage(**(op["NormalizeImage"] or {})) for op in ops if "NormalizeImage" in op]
    if len(found) != 1:
        return None
    mean, std = (values.reshape(1, 3, 1, 1) for values in (found[0].mean, found[0].std))
    values = (images * std + mean) / found[0].scale
    shown = np.clip(np.rint(values), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    decodes_bgr = any((op.get("DecodeImage") or {}).get("to_rgb") is False for op in ops)
    return shown[..., ::-1] if decodes_bgr else shown


def contact_sheet(shown: np.ndarray, columns: int = 4) -> np.ndarray:
    """Return pictures [N, H, W, 3] side by side in rows as one picture; what is missing in the last row is grey."""
    count, height, width, _ = shown.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 128, np.uint8)
    sheet[:count] = shown
    return sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
