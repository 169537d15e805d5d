"""How a width multiplier makes widths. No paddle: reading weight files uses it too."""

from __future__ import annotations


def scaled_width(channels: int, scale: float, divisor: int | None = None) -> int:
    """Return a layer's width: ``int(channels * scale)``, or its nearest multiple of ``divisor``.

    The rounding is that of TensorFlow's release (``make_divisible``): at least one multiple, and one more where
    rounding down would lose over 10 %.
    """
    width = channels * scale
    if divisor is None:
        return int(width)
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded
