"""AutoAugment, RandAugment and timm's policies, under PaddleClas's names and with its parameters and probabilities.

They work on PIL images, as in PaddleClas; all randomness comes from the generator that they are called with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ppmobilenet.photos.chain import PHOTO
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


def picture_of(image: np.ndarray) -> Image.Image:
    """Return an image as Pillow has it."""
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
        picture = picture_of(image)
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
        picture = picture_of(image)
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
        picture = picture_of(image)
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
