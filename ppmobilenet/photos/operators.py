"""The operators of deployment, by PaddleClas's names and parameters, on NumPy arrays; no Paddle is needed.

Every reader of a package computes these and nothing else, so they are what evaluation uses too. An operator is called
with an image and a random generator (None in evaluation) and returns the image. ``takes`` and ``gives`` of each say
which type, layout and channels it works on and returns (the same, where it has no ``gives``), see ``chain``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from PIL import Image

from ppmobilenet.errors import DataError, UserError, did_you_mean
from ppmobilenet.photos.chain import ANY_TYPE, FILE, PHOTO, PIXELS, Form, Takes
from ppmobilenet.photos.decode import MAX_PIXELS, check_size, decode_image, pixel_size, read_bytes
from ppmobilenet.registry import TRANSFORMS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
WIDEST = 300.0  # what 0 to 255 may span after NormalizeImage: without any scaling it is 255
PIL_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming")


class Compose:
    """Transforms in a row: ``compose(image_or_bytes_or_path, rng)``.

    Attributes:
        transforms: the transforms, in order.

    Raises:
        UserError: one of them cannot do its work, with its name and the image's shape; DataError if it is the photo.
    """

    def __init__(self, transforms: Sequence):
        self.transforms = list(transforms)

    def __call__(self, image, rng: np.random.Generator | None = None) -> np.ndarray:
        for transform in self.transforms:
            try:
                image = transform(image, rng)
            except (ValueError, TypeError, IndexError, cv2.error) as error:
                shape = f" on an image of shape {list(image.shape)}" if isinstance(image, np.ndarray) else ""
                # OpenCV refuses single photos (one pixel wide), Python refuses what the parameters make of every one
                kind = DataError if isinstance(error, cv2.error) else UserError
                raise kind(
                    f"{type(transform).__name__} fails{shape}: {getattr(error, 'err', None) or error}",
                    hint="check the operators in front of it in transform_ops, and its parameters",
                ) from error
        return image


class Resizer:
    """``cv2.resize`` or PIL's, by PaddleClas's interpolation and backend names."""

    def __init__(self, interpolation: str | None, backend: str):
        self.interpolation, self.backend = (interpolation or "bilinear").lower(), backend.lower()
        if self.backend not in ("cv2", "pil"):
            raise ValueError(f"backend {backend!r}; allowed: cv2, pil")
        known = (*(INTERPOLATIONS if self.backend == "cv2" else PIL_INTERPOLATIONS), "random")
        if self.interpolation not in known:
            raise ValueError(f"interpolation {interpolation!r}; allowed with {backend}: {', '.join(known)}")
        self.takes = PIXELS if self.backend == "cv2" else PHOTO

    def __call__(self, image: np.ndarray, size: tuple[int, int], rng: np.random.Generator | None) -> np.ndarray:
        """Resize [H, W, 3] to ``size`` (width, height)."""
        name = self.interpolation
        if name == "random":
            name = "bilinear" if rng is None or rng.random() < 0.5 else "bicubic"
        if self.backend == "cv2":
            return cv2.resize(image, size, interpolation=INTERPOLATIONS[name])
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize(size, getattr(Image.Resampling, name.upper())))


def pair(size: int | Sequence[int], name: str = "size") -> tuple[int, int]:
    """A number, or two of them -> (width, height)."""
    values = (size, size) if isinstance(size, int) else tuple(size)
    if len(values) != 2 or not all(isinstance(v, int) and v > 0 for v in values):
        raise ValueError(f"{name} {size!r}; allowed: a number of pixels, or [width, height]")
    return values


def _three(name: str, values: Sequence[float]) -> np.ndarray:
    try:
        array = np.array(values, np.float32)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise ValueError(f"{name} {values!r}; allowed: three numbers, one a channel")
    return array


@TRANSFORMS.register()
class DecodeImage:
    """Bytes or a path -> uint8 [H, W, 3] (``channel_first``: [3, H, W])."""

    takes = FILE

    def __init__(self, to_np: bool = True, to_rgb: bool = True, channel_first: bool = False, backend: str = "cv2"):
        if backend.lower() not in ("cv2", "pil"):
            raise ValueError(f"backend {backend!r}; allowed: cv2, pil")
        self.to_rgb, self.channel_first, self.backend = to_rgb, channel_first, backend.lower()

    def gives(self, form: Form) -> Form:
        return Form("uint8", "CHW" if self.channel_first else "HWC")

    def __call__(self, image, rng=None) -> np.ndarray:
        pixels = self._pil(image) if self.backend == "pil" else decode_image(image, to_rgb=self.to_rgb)
        return pixels.transpose(2, 0, 1) if self.channel_first else pixels

    def _pil(self, image) -> np.ndarray:
        if isinstance(image, np.ndarray):
            return image
        name = "(bytes)" if isinstance(image, bytes) else image
        data = image if isinstance(image, bytes) else read_bytes(image)
        check_size(pixel_size(data), name)
        try:
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except Exception as error:  # its readers raise almost anything at damaged files
            raise DataError(f"PIL cannot decode the photo: {error}", where=name) from error
        return pixels if self.to_rgb else pixels[:, :, ::-1]


@TRANSFORMS.register()
class ResizeImage:
    """Resize so that the shorter side becomes ``resize_short``, or to ``size`` (a number, or [width, height])."""

    def __init__(
        self,
        size: int | list | None = None,
        resize_short: int | None = None,
        interpolation: str | None = None,
        backend: str = "cv2",
        return_numpy: bool = True,
    ):
        if not resize_short and size is None:
            raise ValueError("give size or resize_short")
        self.resize_short = resize_short or None
        self.size = None if self.resize_short else pair(size)
        self.resize = Resizer(interpolation, backend)
        self.takes = self.resize.takes

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) that a photo of this size gets."""
        if self.size:
            return self.size
        percent = float(self.resize_short) / min(width, height)
        target = int(round(width * percent)), int(round(height * percent))
        if target[0] * target[1] > MAX_PIXELS:
            raise DataError(
                f"a photo of {width}x{height} pixels, its shorter side resized to {self.resize_short}, "
                f"would be {target[0]}x{target[1]}",
                hint="remove it from the list: a centre crop sees next to nothing of it",
            )
        return target

    def __call__(self, image: np.ndarray, rng=None) -> np.ndarray:
        return self.resize(image, self.target(image.shape[1], image.shape[0]), rng)


@TRANSFORMS.register()
class CropImage:
    """Centre crop to ``size`` (a number, or [width, height])."""

    takes = PIXELS

    def __init__(self, size: int | list):
        self.size = pair(size)

    def __call__(self, image: np.ndarray, rng=None) -> np.ndarray:
        width, height = self.size
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        if top < 0 or left < 0:
            raise DataError(
                f"the image is {image.shape[1]}x{image.shape[0]} before CropImage to {width}x{height}",
                hint="put a ResizeImage that is at least as large in front",
            )
        return image[top : top + height, left : left + width]


@TRANSFORMS.register()
class NormalizeImage:
    """``(pixel * scale - mean) / std`` in float32.

    Args:
        scale: default 1/255.
        mean: of each channel, default ImageNet's.
        std: of each channel, default ImageNet's.
        order: ``"chw"`` if channels come first in the image, else ``""`` or ``"hwc"``.
        output_fp16: return float16.
        channel_num: 4 appends a channel of zeros.
    """

    def __init__(
        self,
        scale: float | None = None,
        mean: list | None = None,
        std: list | None = None,
        order: str | None = "chw",
        output_fp16: bool = False,
        channel_num: int = 3,
    ):
        if channel_num not in (3, 4):
            raise ValueError(f"channel_num {channel_num!r}; allowed: 3, 4")
        order = order or ""
        if order not in ("chw", "hwc", ""):
            raise ValueError(f"order {order!r}; allowed: 'chw', 'hwc', ''")
        self.order, self.chw = order, order == "chw"
        self.takes = Takes(("uint8",), ("CHW" if self.chw else "HWC",))
        self.scale = np.float32(1.0 / 255.0 if scale is None else scale)
        shape = (3, 1, 1) if self.chw else (1, 1, 3)
        self.mean = _three("mean", mean or IMAGENET_MEAN).reshape(shape)
        self.std = _three("std", std or IMAGENET_STD).reshape(shape)
        if not self.std.all():
            raise ValueError(f"std {std!r} divides by zero; allowed: three numbers other than 0")
        brightest = 255 * abs(float(self.scale))
        if np.abs(self.mean).max() > 2 * brightest:
            shown = ", ".join(f"{value:g}" for value in self.mean.ravel())
            raise ValueError(
                f"mean [{shown}] is far above the pixels, which reach {brightest:g} after the scale "
                f"{float(self.scale):g}: a network would see next to nothing; give scale: 1.0 with mean and std of "
                "0 to 255, or divide both by 255"
            )
        self.output_fp16, self.channel_num = output_fp16, channel_num
        # 256 values a channel hold every answer for uint8 [H, W, 3]: to look them up is 20 times as fast, and the same
        self.table = None
        if not self.chw and channel_num == 3 and not output_fp16:
            self.table = (np.arange(256, dtype=np.float32).reshape(1, 256, 1) * self.scale - self.mean) / self.std

    def gives(self, form: Form) -> Form:
        return Form("float16" if self.output_fp16 else "float32", form.layout, self.channel_num)

    @property
    def doubt(self) -> str:
        """What is odd though it can be computed; empty if nothing is."""
        widest = 255 * abs(float(self.scale)) / float(np.abs(self.std).min())
        if widest <= WIDEST:
            return ""
        return (
            f"pixels will span {widest:.0f}, some 4 is usual: std 0 to 1 goes with scale 1/255, 0 to 255 with scale 1"
        )

    def __call__(self, image: np.ndarray, rng=None) -> np.ndarray:
        if image.shape[0 if self.chw else 2] != 3:
            raise UserError(
                f"NormalizeImage has order {self.order!r}, and the image is {list(image.shape)}",
                allowed="'chw' for channels first, '' for channels last",
                hint="order: '' before ToCHWImage" if self.chw else "order: chw after ToCHWImage",
            )
        if self.table is not None and image.dtype == np.uint8:
            return cv2.LUT(image, self.table)
        image = (image.astype(np.float32) * self.scale - self.mean) / self.std
        if self.channel_num == 4:
            axis = 0 if self.chw else 2
            image = np.concatenate([image, np.zeros_like(np.take(image, [0], axis))], axis)
        return image.astype(np.float16) if self.output_fp16 else image


@TRANSFORMS.register()
class ToCHWImage:
    """[H, W, C] -> [C, H, W]."""

    takes = ANY_TYPE

    def gives(self, form: Form) -> Form:
        return form._replace(layout="CHW")

    def __call__(self, image: np.ndarray, rng=None) -> np.ndarray:
        return np.ascontiguousarray(image.transpose(2, 0, 1))


OPERATORS: Mapping[str, Callable] = {
    kind.__name__: kind for kind in (DecodeImage, ResizeImage, CropImage, NormalizeImage, ToCHWImage)
}


def build(
    ops: Sequence[Mapping[str, Mapping | None]],
    where: str = "transform_ops",
    known: Mapping[str, Callable] = OPERATORS,
) -> Compose:
    """Build a list of PaddleClas's shape: ``[{"DecodeImage": {"to_rgb": True}}, ..., {"ToCHWImage": None}]``.

    Args:
        ops: the list.
        where: its place, for messages.
        known: the operators that it may name.

    Raises:
        UserError: an unknown operator or parameter, with its place in the list.
    """
    built = []
    for number, entry in enumerate(ops):
        ((name, parameters),) = entry.items()
        place = f"{where}.{number}"
        if name not in known:
            raise UserError(f"unknown transform {name!r}", where=place, hint=did_you_mean(name, known))
        try:
            built.append(known[name](**(parameters or {})))
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {error}", where=place) from error
    return Compose(built)
