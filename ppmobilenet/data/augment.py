"""Training augmentation under PaddleClas's names and with its parameters and probabilities; no Paddle is needed.

Like every transform these are called with an uint8 image [H, W, 3] (RandomErasing: a normalised float one) and a random
generator, from which all randomness comes.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image

from ppmobilenet.data.policies import OPERATIONS, picture_of
from ppmobilenet.errors import DataError
from ppmobilenet.photos.chain import NORMALISED, PHOTO, PIXELS
from ppmobilenet.photos.operators import INTERPOLATIONS, pair
from ppmobilenet.registry import TRANSFORMS


@TRANSFORMS.register()
class RandomErasing:
    """Overwrite a random rectangle (Zhong et al. 2020); comes after NormalizeImage.

    Args:
        EPSILON: chance that an image is changed.
        sl: smallest part of the area.
        sh: largest part.
        r1: narrowest aspect ratio (height to width); the widest is 1 / r1.
        mean: what ``const`` writes, in normalised values.
        attempt: rectangles that are drawn until one fits.
        use_log_aspect: draw the logarithm of the ratio evenly, as timm does.
        mode: ``const``; ``rand``: one normal random colour; ``pixel``: normal noise.
    """

    takes = NORMALISED

    def __init__(
        self,
        EPSILON: float = 0.5,
        sl: float = 0.02,
        sh: float = 0.4,
        r1: float = 0.3,
        mean: list | tuple = (0.0, 0.0, 0.0),
        attempt: int = 100,
        use_log_aspect: bool = False,
        mode: str = "const",
    ):
        if mode not in ("const", "rand", "pixel"):
            raise ValueError(f"mode {mode!r}; allowed: const, rand, pixel")
        if not 0 < sl <= sh or r1 <= 0:
            raise ValueError(f"sl {sl!r}, sh {sh!r}, r1 {r1!r}; allowed: 0 < sl <= sh, 0 < r1")
        self.probability, self.area, self.attempt, self.mode = EPSILON, (sl, sh), attempt, mode
        self.mean = np.asarray(mean, np.float32)
        self.use_log_aspect = use_log_aspect
        self.ratio = (math.log(r1), -math.log(r1)) if use_log_aspect else (r1, 1 / r1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() > self.probability:
            return image
        height, width = image.shape[:2]
        for _ in range(self.attempt):
            area = rng.uniform(*self.area) * height * width
            ratio = rng.uniform(*self.ratio)
            if self.use_log_aspect:
                ratio = math.exp(ratio)
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                image = image.copy()
                image[top : top + h, left : left + w] = self._pixels(h, w, image.shape[2], rng)
                return image
        return image

    def _pixels(self, height: int, width: int, channels: int, rng: np.random.Generator) -> np.ndarray:
        if self.mode == "const":
            return self.mean
        return rng.standard_normal((height, width, channels) if self.mode == "pixel" else channels, np.float32)


@TRANSFORMS.register()
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order.

    Each is a number b (factors evenly between max(0, 1 - b) and 1 + b; hue: turns between -b and b) or [lowest,
    highest].

    Args:
        prob: chance that an image is changed; above 1 is always, PaddleClas's default.
    """

    takes = PHOTO

    def __init__(
        self,
        prob: float = 2,
        brightness: float | list = 0,
        contrast: float | list = 0,
        saturation: float | list = 0,
        hue: float | list = 0,
    ):
        self.prob = prob
        self._ranges = {
            "brightness": self._range("brightness", brightness, 1.0, math.inf),
            "contrast": self._range("contrast", contrast, 1.0, math.inf),
            "color": self._range("saturation", saturation, 1.0, math.inf),
            "hue": self._range("hue", hue, 0.0, 0.5),
        }

    @staticmethod
    def _range(name: str, value: float | list, centre: float, most: float) -> tuple[float, float]:
        least = 0.0 if centre else -most
        if isinstance(value, (int, float)):
            low, high = centre - value, centre + value
            low = max(low, least) if centre else low
            if value < 0:
                low, high = 1, 0
        else:
            low, high = value
        if not least <= low <= high <= most:
            raise ValueError(
                f"{name} {value!r}; allowed: a number from 0 up, or [lowest, highest] from {least} to {most}"
            )
        return low, high

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.prob:
            return image
        picture = picture_of(image)
        for name in rng.permutation(list(self._ranges)):
            low, high = self._ranges[name]
            if low == high:
                continue
            amount = rng.uniform(low, high)
            picture = _turn_hue(picture, amount) if name == "hue" else OPERATIONS[name](picture, amount, None, None)
        return np.asarray(picture)


def _turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    hsv = np.array(picture.convert("HSV"))
    hsv[..., 0] += np.uint8(int(turn * 255) % 256)  # wraps around
    return Image.fromarray(hsv, "HSV").convert("RGB")


@TRANSFORMS.register()
class RandomRotation:
    """Rotate by an angle drawn evenly.

    Args:
        prob: chance that an image is rotated.
        degrees: a number d for -d to d, or [lowest, highest], anticlockwise.
        interpolation: OpenCV's: nearest, bilinear, area, bicubic, lanczos.
        expand: enlarge the image so that nothing is cut off.
        center: [x, y] of the axis; default the middle.
        fill: what is uncovered.
    """

    takes = PIXELS

    def __init__(
        self,
        prob: float = 0.5,
        degrees: float | list = 0,
        interpolation: str = "nearest",
        expand: bool = False,
        center: list | None = None,
        fill: float | list = 0,
    ):
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {interpolation!r}; allowed: {', '.join(INTERPOLATIONS)}")
        low, high = (-degrees, degrees) if isinstance(degrees, (int, float)) else degrees
        if low > high:
            raise ValueError(f"degrees {degrees!r}; allowed: a number from 0 up, or [lowest, highest]")
        self.prob, self.degrees, self.expand, self.center = prob, (low, high), expand, center
        self._by = INTERPOLATIONS[interpolation]
        self.fill = (fill,) * 3 if isinstance(fill, (int, float)) else tuple(fill)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.prob:
            return image
        angle = rng.uniform(*self.degrees)
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(tuple(self.center or (width / 2, height / 2)), angle, 1)
        if self.expand:
            cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
            # rounded first: the cosine of a right angle is not quite 0
            wide, high = (math.ceil(round(v, 6)) for v in (width * cos + height * sin, width * sin + height * cos))
            matrix[:, 2] += ((wide - width) / 2, (high - height) / 2)
            width, height = wide, high
        return cv2.warpAffine(image, matrix, (width, height), flags=self._by, borderValue=self.fill)


@TRANSFORMS.register()
class Pad:
    """Add ``padding`` pixels of the value ``fill`` on every side; ``padding_mode`` is constant, ``backend`` any."""

    takes = PIXELS

    def __init__(self, padding: int, fill: int = 0, padding_mode: str = "constant", backend: str = "pil"):
        if padding < 0 or padding_mode != "constant" or backend not in ("pil", "cv2"):
            raise ValueError(
                f"padding {padding!r}, padding_mode {padding_mode!r}, backend {backend!r}; "
                "allowed: 0 and above, constant, pil or cv2"
            )
        self.padding, self.fill = padding, (fill,) * 3

    def __call__(self, image: np.ndarray, rng=None) -> np.ndarray:
        return cv2.copyMakeBorder(image, *(self.padding,) * 4, cv2.BORDER_CONSTANT, value=self.fill)


@TRANSFORMS.register()
class Padv2:
    """Put the image on a larger one of ``size`` (a number, or [width, height]).

    Args:
        size: of the result.
        pad_mode: where the image goes: 0 left and top, 1 the middle, 2 right and bottom, -1 ``offsets``.
        offsets: [x, y] of its corner.
        fill_value: of the rest, one number or three; rounded, where PaddleClas goes on in floating point.
        size_divisor: PaddleClas's, used there without a size only.
    """

    takes = PIXELS

    def __init__(
        self,
        size: int | list[int],
        size_divisor: int = 32,
        pad_mode: int = 0,
        offsets: list[int] | None = None,
        fill_value: float | list[float] = 127.5,
    ):
        if pad_mode not in (-1, 0, 1, 2) or (pad_mode == -1) != bool(offsets) or (offsets and len(offsets) != 2):
            raise ValueError(f"pad_mode {pad_mode!r}, offsets {offsets!r}; allowed: 0, 1, 2, or -1 with offsets [x, y]")
        fill = list(fill_value) if isinstance(fill_value, (list, tuple)) else [fill_value] * 3
        if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
            raise ValueError(f"fill_value {fill_value!r}; allowed: 0 to 255, one number or three")
        self.size, self.pad_mode, self.offsets = pair(size), pad_mode, offsets
        self.fill = tuple(int(round(value)) for value in fill)

    def __call__(self, image: np.ndarray, rng=None) -> np.ndarray:
        (width, height), (high, wide) = self.size, image.shape[:2]
        across, down = width - wide, height - high
        left, top = {-1: self.offsets, 0: (0, 0), 1: (across // 2, down // 2), 2: (across, down)}[self.pad_mode]
        if min(left, top, across - left, down - top) < 0:
            raise DataError(
                f"the image is {wide}x{high} before Padv2 to {width}x{height}",
                hint="put a ResizeImage in front, or give Padv2 a larger size",
            )
        sides = (top, down - top, left, across - left)
        return cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=self.fill)


@TRANSFORMS.register()
class RandomCropImage:
    """Cut out ``size`` (a number, or [width, height]) at a random place, without resizing."""

    takes = PIXELS

    def __init__(self, size: int | list):
        self.size = pair(size)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        (width, height), (high, wide) = self.size, image.shape[:2]
        if wide < width or high < height:
            raise DataError(
                f"the image is {wide}x{high} before RandomCropImage to {width}x{height}",
                hint="put a ResizeImage or a Pad in front",
            )
        top, left = rng.integers(0, high - height + 1), rng.integers(0, wide - width + 1)
        return image[top : top + height, left : left + width]
