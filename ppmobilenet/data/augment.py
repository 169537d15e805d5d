"""Training augmentation under PaddleClas's names and with its parameters and probabilities; no Paddle is needed.

Like every transform these are called with an uint8 image [H, W, 3] (RandomErasing: a normalised float one) and a random
generator, from which all randomness comes. Policies work on PIL images, as in PaddleClas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ppmobilenet.errors import DataError
from ppmobilenet.photos.chain import NORMALISED, PHOTO, PIXELS
from ppmobilenet.photos.operators import INTERPOLATIONS, pair
from ppmobilenet.registry import TRANSFORMS

Resampling = Image.Resampling
GREY = (128, 128, 128)

# AutoAugment's policies for ImageNet: (operation, probability, level 0-9), two in a row (Cubuk et al. 2019, table 9)
POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shearX", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
# the policies of the EfficientNet code, which timm calls v0
POLICY_V0 = (
    (("equalize", 0.8, 1), ("shearY", 0.8, 4)),
    (("color", 0.4, 9), ("equalize", 0.6, 3)),
    (("color", 0.4, 1), ("rotate", 0.6, 8)),
    (("solarize", 0.8, 3), ("equalize", 0.4, 7)),
    (("solarize", 0.4, 2), ("solarize", 0.6, 2)),
    (("color", 0.2, 0), ("equalize", 0.8, 8)),
    (("equalize", 0.4, 8), ("solarize_add", 0.8, 3)),
    (("shearX", 0.2, 9), ("rotate", 0.6, 8)),
    (("color", 0.6, 1), ("equalize", 1.0, 2)),
    (("invert", 0.4, 9), ("rotate", 0.6, 0)),
    (("equalize", 1.0, 9), ("shearY", 0.6, 3)),
    (("color", 0.4, 7), ("equalize", 0.6, 0)),
    (("posterize", 0.4, 6), ("autocontrast", 0.4, 7)),
    (("solarize", 0.6, 8), ("color", 0.6, 9)),
    (("solarize", 0.2, 4), ("rotate", 0.8, 9)),
    (("rotate", 1.0, 7), ("translateY", 0.8, 9)),
    (("shearX", 0.0, 0), ("solarize", 0.8, 4)),
    (("shearY", 0.8, 0), ("color", 0.6, 4)),
    (("color", 1.0, 0), ("rotate", 0.6, 2)),
    (("equalize", 0.8, 4), ("equalize", 0.0, 8)),
    (("equalize", 1.0, 4), ("autocontrast", 0.6, 2)),
    (("shearY", 0.4, 7), ("solarize_add", 0.6, 7)),
    (("posterize", 0.8, 2), ("solarize", 0.6, 10)),
    (("solarize", 0.6, 8), ("equalize", 0.6, 1)),
    (("color", 0.8, 6), ("rotate", 0.4, 5)),
)


def _affine(image: Image.Image, matrix: Sequence[float], fill: tuple, resample) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)


def _keep_bits(image: Image.Image, bits: int) -> Image.Image:
    # ImageOps.posterize refuses 0 bits in newer releases; weak magnitudes ask for it, and mean black
    mask = 0xFF & ~(2 ** (8 - min(bits, 8)) - 1)
    return image.point([i & mask for i in range(256)] * 3)


def _solarize_add(image: Image.Image, add: int) -> Image.Image:
    return image.point([min(255, i + add) if i < 128 else i for i in range(256)] * 3)


# operation -> what it does with (image, amount, fill colour, resampling)
OPERATIONS: dict[str, Callable] = {
    "shearX": lambda im, v, fill, by: _affine(im, (1, v, 0, 0, 1, 0), fill, by),
    "shearY": lambda im, v, fill, by: _affine(im, (1, 0, 0, v, 1, 0), fill, by),
    "translateX": lambda im, v, fill, by: _affine(im, (1, 0, v * im.size[0], 0, 1, 0), fill, by),
    "translateY": lambda im, v, fill, by: _affine(im, (1, 0, 0, 0, 1, v * im.size[1]), fill, by),
    "rotate": lambda im, v, fill, by: im.rotate(v, by, fillcolor=fill),
    "color": lambda im, v, fill, by: ImageEnhance.Color(im).enhance(v),
    "contrast": lambda im, v, fill, by: ImageEnhance.Contrast(im).enhance(v),
    "sharpness": lambda im, v, fill, by: ImageEnhance.Sharpness(im).enhance(v),
    "brightness": lambda im, v, fill, by: ImageEnhance.Brightness(im).enhance(v),
    "posterize": lambda im, v, fill, by: _keep_bits(im, int(v)),
    "solarize": lambda im, v, fill, by: ImageOps.solarize(im, v),
    "solarize_add": lambda im, v, fill, by: _solarize_add(im, int(v)),
    "autocontrast": lambda im, v, fill, by: ImageOps.autocontrast(im),
    "equalize": lambda im, v, fill, by: ImageOps.equalize(im),
    "invert": lambda im, v, fill, by: ImageOps.invert(im),
}
ENHANCING = ("color", "contrast", "sharpness", "brightness")
MOVING = ("shearX", "shearY", "translateX", "translateY")
SHEARING = ("shearX", "shearY")


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _operate(image: Image.Image, name: str, size: float, fill: tuple, rng: np.random.Generator) -> Image.Image:
    """Apply an operation as AutoAugment and RandAugment of PaddleClas do: signs at random, except rotation's."""
    if name in MOVING:
        size *= _sign(rng)
    elif name in ENHANCING:
        size = 1 + size * _sign(rng)
    by = Resampling.BICUBIC if name in SHEARING else Resampling.NEAREST
    return OPERATIONS[name](image, size, GREY if name == "rotate" else fill, by)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image))


@TRANSFORMS.register()
class AutoAugment:
    """One of AutoAugment's 25 ImageNet policies: two operations in a row, each with its probability and strength.

    Args:
        fillcolor: of what shearing and translation uncover; rotation uncovers grey.
    """

    takes = PHOTO

    # level 0 and level 9 of each operation; ten levels lie evenly between
    RANGES = {
        **dict.fromkeys(SHEARING, (0, 0.3)),
        **dict.fromkeys(("translateX", "translateY"), (0, 150 / 331)),
        **dict.fromkeys(ENHANCING, (0.0, 0.9)),
        "rotate": (0, 30),
        "posterize": (8, 4),
        "solarize": (256, 0),
    }

    def __init__(self, fillcolor: list | tuple = GREY):
        self.fill = tuple(fillcolor)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = _picture(image)
        for name, probability, level in POLICY[rng.integers(len(POLICY))]:
            if rng.random() < probability:
                first, last = self.RANGES.get(name, (0, 0))
                size = first + (last - first) * level / 9
                picture = _operate(picture, name, round(size) if name == "posterize" else size, self.fill, rng)
        return np.asarray(picture)


@TRANSFORMS.register()
class RandAugment:
    """``num_layers`` operations drawn with equal chances from fourteen, all at the strength ``magnitude`` of 10.

    Args:
        num_layers: operations in a row.
        magnitude: 0 to 10.
        fillcolor: of what shearing and translation uncover; rotation uncovers grey.
    """

    takes = PHOTO

    # at magnitude 10; the weaker ones are this times magnitude / 10 (posterize keeps that many bits, as PaddleClas has)
    FULL = {
        **dict.fromkeys(SHEARING, 0.3),
        **dict.fromkeys(("translateX", "translateY"), 150 / 331),
        "rotate": 30,
        **dict.fromkeys(ENHANCING, 0.9),
        "posterize": 4,
        "solarize": 256,
        **dict.fromkeys(("autocontrast", "equalize", "invert"), 0),
    }

    def __init__(self, num_layers: int = 2, magnitude: float = 5, fillcolor: list | tuple = GREY):
        if num_layers < 0 or not 0 <= magnitude <= 10:
            raise ValueError(f"num_layers {num_layers!r}, magnitude {magnitude!r}; allowed: 0 and above, 0 to 10")
        self.num_layers, self.fill = num_layers, tuple(fillcolor)
        self.sizes = {name: full * magnitude / 10 for name, full in self.FULL.items()}
        self._names = list(self.sizes)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = _picture(image)
        for _ in range(self.num_layers):
            name = self._names[rng.integers(len(self._names))]
            picture = _operate(picture, name, self.sizes[name], self.fill, rng)
        return np.asarray(picture)


@TRANSFORMS.register()
class TimmAutoAugment:
    """The policies of timm, by its strings.

    ``rand-m9-mstd0.5-inc1``: RandAugment with magnitude 9 (``m``, default 10), drawn anew for each operation with this
    standard deviation (``mstd``, default 0) and held in 0 to 10; ``inc1``: all strengths grow with the magnitude;
    ``n2``: operations in a row (2), each applied with probability 0.5; ``w0``: operations with timm's chances, none
    twice. ``original``, ``originalr``, ``v0``, ``v0r``, with or without ``-mstd0.5``: a policy of AutoAugment (``r``:
    posterize grows with the level).

    Args:
        prob: chance that an image is changed at all.
        config_str: see above.
        interpolation: of shearing, translation and rotation: bilinear, bicubic, lanczos, hamming or random.
        img_size: not used: PaddleClas reads it for absolute translations, which none of its policies has.
        mean: of the channels, 0 to 1: the fill colour.
    """

    takes = PHOTO

    RAND = (
        "autocontrast",
        "equalize",
        "invert",
        "rotate",
        "posterize",
        "solarize",
        "solarize_add",
        *ENHANCING,
        *MOVING,
    )
    # chances of w0, as timm has them
    WEIGHTS = {
        "rotate": 0.3,
        "shearX": 0.2,
        "shearY": 0.2,
        "translateX": 0.1,
        "translateY": 0.1,
        "color": 0.025,
        "sharpness": 0.025,
        "autocontrast": 0.025,
        **dict.fromkeys(("solarize", "solarize_add", "contrast", "brightness", "equalize"), 0.005),
        **dict.fromkeys(("posterize", "invert"), 0.0),
    }
    TRANSLATION = 0.45  # part of the side at level 10

    def __init__(
        self,
        prob: float = 1.0,
        config_str: str = "rand-m9-mstd0.5-inc1",
        interpolation: str = "bicubic",
        img_size: int | list = 224,
        mean: list | tuple = (0.485, 0.456, 0.406),
    ):
        self.prob, self.config_str = prob, config_str
        if interpolation not in ("bilinear", "bicubic", "lanczos", "hamming", "random"):
            raise ValueError(f"interpolation {interpolation!r}; allowed: bilinear, bicubic, lanczos, hamming, random")
        names = ("bilinear", "bicubic") if interpolation == "random" else (interpolation,)
        self._by = [getattr(Resampling, name.upper()) for name in names]
        self.fill = tuple(min(255, round(255 * m)) for m in mean)
        kind, *sections = config_str.split("-")
        values = {"m": 10.0, "n": 2.0, "w": None, "mstd": 0.0, "inc": 0.0}
        allowed = tuple(values) if kind == "rand" else ("mstd",)
        if kind not in ("rand", "original", "originalr", "v0", "v0r"):
            raise ValueError(f"config_str {config_str!r}; allowed: rand-..., original, originalr, v0, v0r")
        for section in sections:
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d*)?)", section)
            if not match or match[1] not in allowed:
                raise ValueError(
                    f"section {section!r} of config_str {config_str!r}; allowed: a number after {', '.join(allowed)}"
                )
            values[match[1]] = float(match[2])
        self.magnitude, self.std, self.layers = values["m"], values["mstd"], int(values["n"])
        self.increasing = bool(values["inc"])
        self.posterize = "up" if self.increasing or kind.endswith("r") else "down"
        self.policy = None
        if kind != "rand":
            self.policy = POLICY if kind.startswith("original") else POLICY_V0
            self.posterize = "original" if kind == "original" else self.posterize
        self._chances = None
        if values["w"] is not None:
            self._chances = np.array([self.WEIGHTS[name] for name in self.RAND])
            self._chances /= self._chances.sum()

    def amount(self, name: str, level: float, rng: np.random.Generator) -> float:
        """Return what an operation gets at a level of 0 to 10."""
        part = level / 10
        if name in SHEARING:
            return 0.3 * part * _sign(rng)
        if name in MOVING:
            return self.TRANSLATION * part * _sign(rng)
        if name == "rotate":
            return 30 * part * _sign(rng)
        if name in ENHANCING:
            return 1 + 0.9 * part * _sign(rng) if self.increasing else 0.1 + 1.8 * part
        if name == "posterize":
            bits = int(4 * part)
            return {"down": bits, "up": 4 - bits, "original": bits + 4}[self.posterize]
        if name == "solarize":
            return 256 - int(256 * part) if self.increasing else int(256 * part)
        return int(110 * part)  # solarize_add; the others take none

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.prob:
            return image
        picture = _picture(image)
        if self.policy:
            operations = self.policy[rng.integers(len(self.policy))]
        else:
            drawn = rng.choice(len(self.RAND), self.layers, replace=self._chances is None, p=self._chances)
            operations = [(self.RAND[i], 0.5, self.magnitude) for i in drawn]
        for name, probability, level in operations:
            if rng.random() < probability:
                level = rng.normal(level, self.std) if self.std else level
                amount = self.amount(name, min(10.0, max(0.0, level)), rng)
                by = self._by[rng.integers(len(self._by))]
                picture = OPERATIONS[name](picture, amount, self.fill, by)
        return np.asarray(picture)


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
        picture = _picture(image)
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
