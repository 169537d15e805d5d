"""Evaluation pixels are what PaddleClas's chain of OpenCV calls defines; every photo decodes or is named."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest

from ppmobilenet.data.transforms import RandCropImage, RandFlipImage, build_transforms
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import decode_image, pixel_size

EVAL_OPS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 256}},
    {"CropImage": {"size": 224}},
    {"NormalizeImage": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "order": ""}},
    {"ToCHWImage": None},
]


def reference(data: bytes) -> np.ndarray:
    """The chain as plain OpenCV and NumPy calls."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), 1)[:, :, ::-1]
    percent = 256.0 / min(image.shape[:2])
    size = (int(round(image.shape[1] * percent)), int(round(image.shape[0] * percent)))
    image = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR)
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    image = image[top : top + 224, left : left + 224].astype("float32")
    mean = np.array([0.485, 0.456, 0.406], "float32").reshape(1, 1, 3)
    std = np.array([0.229, 0.224, 0.225], "float32").reshape(1, 1, 3)
    return ((image * np.float32(1 / 255) - mean) / std).transpose(2, 0, 1)


def photo(height: int = 300, width: int = 401) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4).reshape(height, width, 3)


def encode(pixels: np.ndarray, suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def test_evaluation_pixels_are_opencvs():
    for data in (encode(photo()), encode(photo(641, 200), ".png"), encode(photo(100, 90), ".bmp")):
        assert np.array_equal(build_transforms(EVAL_OPS)(data), reference(data))


def test_evaluation_pixels_of_real_photos(shared):
    for path in sorted((shared / "images").glob("*.jp*g")):
        assert np.array_equal(build_transforms(EVAL_OPS)(path), reference(path.read_bytes()))


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"])
def test_pil_backend_gives_pils_pixels(name):
    image = pytest.importorskip("PIL.Image")
    data = encode(photo())
    ops = [{"DecodeImage": {"backend": "pil"}}, {"ResizeImage": {"size": [60, 50], "backend": "pil"}}]
    ops[1]["ResizeImage"]["interpolation"] = name
    wanted = image.open(io.BytesIO(data)).convert("RGB").resize((60, 50), getattr(image.Resampling, name.upper()))
    assert np.array_equal(build_transforms(ops)(data), np.asarray(wanted))
    turned = [{"DecodeImage": {"backend": "pil", "to_rgb": False, "channel_first": True}}]
    assert np.array_equal(
        build_transforms(turned)(data), np.asarray(image.open(io.BytesIO(data)))[:, :, ::-1].transpose(2, 0, 1)
    )


@pytest.mark.parametrize("name", ["nearest", "bilinear", "area", "bicubic", "lanczos"])
def test_cv2_backend_takes_paddleclas_names(name):
    by = {"bilinear": "LINEAR", "bicubic": "CUBIC", "lanczos": "LANCZOS4"}.get(name, name.upper())
    ops = [{"ResizeImage": {"size": [60, 50], "interpolation": name}}]
    wanted = cv2.resize(photo(), (60, 50), interpolation=getattr(cv2, f"INTER_{by}"))
    assert np.array_equal(build_transforms(ops)(photo()), wanted)


def test_pil_backend_names_what_it_cannot_decode(tmp_path):
    decode = build_transforms([{"DecodeImage": {"backend": "pil"}}])
    png = bytearray(encode(photo(), ".png"))
    png[60:90] = bytes(30)
    path = tmp_path / "broken.png"
    for data, words in ((bytes(png), "cannot decode"), (b"", "cannot decode"), (bytes(png[:33]), "cannot decode")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=words) as error:
            decode(path)
        assert "broken.png" in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        decode(tmp_path / "none.png")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_colour_mode_becomes_three_channels(mode):
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    if mode == "I;16":
        image.fromarray(np.linspace(0, 65535, 6400).reshape(80, 80).astype(np.uint16)).save(out, "PNG")
    else:
        image.fromarray(photo(80, 80)).convert(mode).save(out, "JPEG" if mode == "CMYK" else "PNG")
    pixels = decode_image(out.getvalue())
    assert pixels.shape == (80, 80, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    exif = image.Exif()
    exif[274] = orientation
    image.fromarray(photo(40, 60)).save(out, "JPEG", exif=exif)
    assert decode_image(out.getvalue()).shape[:2] == ((40, 60) if orientation <= 4 else (60, 40))


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (encode(photo())[:900], "truncated or damaged"),
        (b"GIF89a" + bytes(2), "not a photo|reads none"),  # OpenCV 4 reads no GIF
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + (60000).to_bytes(4, "big") * 2, "60000x60000"),
        (b"plain text", "not a photo"),
        (cv2.imencode(".tiff", np.zeros((9, 9), np.float32))[1].tobytes(), "a TIFF of 32-bit floating-point numbers"),
        (cv2.imencode(".tiff", np.zeros((9, 9, 3)))[1].tobytes(), "a TIFF of 64-bit floating-point numbers"),
        (cv2.imencode(".tiff", np.zeros((9, 9), np.int32))[1].tobytes(), "a TIFF of 32-bit signed numbers"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photo"),
        (b"P6 60000 60000 255\n", "60000x60000"),
    ],
)
def test_what_is_not_a_photo_is_named(tmp_path, data, words):
    path = tmp_path / "my photo é.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as error:
        decode_image(path)
    assert "my photo é.jpg" in str(error.value)


def test_a_header_of_comments_is_read_at_once():
    """Ten thousand signs would take a pattern that backtracks for ever."""
    assert pixel_size(b"P6" + b" #" * 10_000) is None
    assert pixel_size(b"P6 # one\n# two\n 7 5\n255\n") == (7, 5)


def test_a_header_holds_up_nobody_by_its_length():
    """What is longer than any camera's is no photo's: to search it all would let no other thread run for seconds."""
    for count, size in ((1000, (7, 5)), (30_000, None)):
        assert pixel_size(b"P6" + b" #\n" * count + b" 7 5\n255\n") == size
    part = b"ispe" + bytes(4) + struct.pack(">II", 7, 5)
    for count, size in ((1, (7, 5)), (1000, (7, 5)), (1001, None)):
        assert pixel_size(b"\0\0\0\x1cftypavif" + part * count) == size


def test_extreme_shapes_go_through():
    small = build_transforms([{"ResizeImage": {"resize_short": 40}}, {"CropImage": {"size": 32}}])
    for height, width in ((1, 1), (1, 500), (3, 2000)):
        assert RandCropImage(size=32)(photo(height, width), np.random.default_rng(0)).shape == (32, 32, 3)
        assert small(photo(height, width)).shape == (32, 32, 3)


def test_random_crop_has_paddleclas_distribution():
    crop, rng = RandCropImage(size=224), np.random.default_rng(0)
    boxes = np.array([crop.box(500, 400, rng) for _ in range(4000)], float)
    area, aspect = boxes[:, 2] * boxes[:, 3] / (500 * 400), boxes[:, 2] / boxes[:, 3]
    # aspect uniform in [3/4, 4/3]; area uniform between 8 % and the largest part that the aspect allows
    assert abs(aspect.mean() - (3 / 4 + 4 / 3) / 2) < 0.02
    bound = np.minimum(1, np.minimum(1.25 / aspect, 0.8 * aspect))
    assert abs(((area - 0.08) / (bound - 0.08)).mean() - 0.5) < 0.02
    assert abs((boxes[:, 0] / np.maximum(500 - boxes[:, 2], 1)).mean() - 0.5) < 0.02
    assert abs(np.mean([RandFlipImage()(np.eye(3), rng)[0, 0] == 0 for _ in range(2000)]) - 0.5) < 0.05


@pytest.mark.parametrize(
    "op, words",
    [
        ({"RandCropImag": {"size": 3}}, "did you mean 'RandCropImage'"),
        ({"ResizeImage": {}}, "size or resize_short"),
        ({"CropImage": {"size": "big"}}, "size 'big'"),
        ({"ResizeImage": {"size": 3, "backend": "gpu"}}, "allowed: cv2, pil"),
        ({"ResizeImage": {"size": 3, "interpolation": "cubic"}}, "bicubic"),
        ({"NormalizeImage": {"order": "rgb"}}, "order 'rgb'"),
        ({"NormalizeImage": {"std": [0.2, 0, 0.2]}}, "divides by zero"),
        ({"NormalizeImage": {"mean": [0.5, 0.5]}}, "three numbers"),
        (
            {"NormalizeImage": {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}},
            r"mean \[123.7, 116.3, 103.5\] is far.* scale: 1.0 with mean",
        ),
    ],
)
def test_wrong_parameters_are_named(op, words):
    with pytest.raises(UserError, match=words) as error:
        build_transforms([op], where="DataLoader.Eval.dataset.transform_ops")
    assert "transform_ops.0" in str(error.value)
