"""The package: one folder that holds a model for the field and everything needed to use and to check it.

Layout (only the forms that were asked for are there)::

    package.json            this format; everything below is named in it
    inference.yml           preprocessing and labels for PaddleClas's and PaddleX's own predictors; absent if neither
                            can do it
    inference.json          Paddle Inference, Paddle 3 (parameters in inference.pdiparams)
    inference.pdmodel       Paddle Inference, Paddle 2 and tools such as Paddle Lite's opt (the same parameters file)
    inference_b1.pdmodel    the same for one photo a run, which Paddle's OpenVINO engine runs faster
    inference.pdiparams
    inference.onnx          ONNX
    armv8_fp32.nb           Paddle Lite, <target>_<precision>.nb
    int8/inference.pdmodel  int8 for Paddle Inference; in a folder of its own, because PaddleClas's predictor takes
    int8/inference.pdiparams    any inference_int8.pdiparams beside the float model instead of it
    int8/inference.onnx     ONNX in QDQ form
    golden/                 one photo and what every stage made of it, see below

``package.json`` is written so that OpenCV 4.6's ``cv::FileStorage`` reads it: UTF-8 without ``\\u`` escapes, no null,
integers below 2^31, strings below 2000 bytes, booleans as true/false (it reads them as 1/0). Its keys:

* ``format`` = ``"ppmobilenet-package"``, ``format_version`` = 1, or 2 where a reader of version 1 would answer wrongly
  (``decision.several``, ``decision.threshold``). A reader refuses a larger version.
* ``name``: the architecture, e.g. ``"MobileNetV2"``. ``class_num``. ``topk``: how many answers to show by default.
* ``labels``: one name a class, in class order.
* ``input``: ``name``, ``dtype`` (``"float32"``; ``"uint8"`` with embedded preprocessing), ``layout``
  (``"NCHW"``/``"NHWC"``), ``shape`` (first entry -1: the batch).
* ``output``: ``kind`` (``"probabilities"`` or ``"logits"``), ``class_num``.
* ``decision`` (optional): ``several`` (a photo has several labels: the logits go through a sigmoid, not a softmax) and
  ``thresholds`` (one for each label, which is there from that probability on), perhaps ``attributes`` (what they are
  said with, ``"PersonAttribute"``; a reader may name the labels instead); or ``threshold`` (of two classes the answer
  is class 1 from this probability on, else class 0); ``temperature`` (the logits are divided by it; of a form that
  gives probabilities these are softmax(log(p) / temperature)), ``unsure_below`` (a best answer whose probability, after
  the temperature, is below it, is ``unsure``), and how they were measured, which nobody has to read: ``photos``,
  ``ece_before``, ``ece_after``,
  ``false_accept`` (the rate that was asked for), ``judged_by`` (``"wrong answers"`` or ``"none of these"``),
  ``judged_photos``, ``judged_accepted``, ``right_kept``, ``sure_wrong``.
* ``preprocess``: ``decoder`` (``"opencv"``), ``exif`` (``"rotate"``: the EXIF orientation is applied, which
  ``cv::imread(IMREAD_COLOR)`` does), ``rounding`` (``"half-even"``: how resized lengths are rounded,
  ``std::nearbyint``) and ``ops``, a list to be applied in order. Each has ``op`` and its parameters, all written out:

  - ``DecodeImage``: ``to_rgb`` (false: the channels stay BGR).
  - ``ResizeImage``: ``resize_short`` (the shorter side becomes this: ``percent = resize_short / min(w, h)`` in
    doubles, ``w = round(w * percent)``, ``h = round(h * percent)``) or ``size`` ([w, h]); ``interpolation``
    (``"bilinear"``, ``"nearest"``, ``"area"``, ``"bicubic"``, ``"lanczos"``: cv::INTER_*), ``backend`` (``"cv2"`` or
    ``"pil"``).
  - ``CropImage``: ``size`` ([w, h]); left = (w - size[0]) / 2 and top = (h - size[1]) / 2 in whole numbers.
  - ``NormalizeImage``: ``(pixel * scale - mean[c]) / std[c]`` in float32 for each channel in the order the pixels
    then have; ``order`` ``"hwc"`` or ``"chw"``. Absent when normalisation is inside the graph.
  - ``ToCHWImage``: HWC -> CHW. Absent for an NHWC input.

* ``forms``: a list; each has ``name`` (``"inference"``, ``"pdmodel"``, ``"pdmodel-b1"``, ``"onnx"``,
  ``"lite-armv8-fp32"``, ``"pdmodel-int8"``, ``"onnx-int8"``, ...), ``engine`` (``"paddle"``, ``"onnxruntime"``,
  ``"lite"``), ``precision`` (``"fp32"``, ``"fp16"``, ``"int8"``), ``files``; for Lite ``target`` (``"armv8"``,
  ``"armv7"``, ``"x86"``) and ``opt_version``; for ONNX ``input`` and ``output`` (the names in the file), ``opset`` and
  ``ir_version`` (older packages lack these four: take the file's only input and output); ``batch`` where it is fixed;
  ``compared`` tells whether it was run against the model at export, then ``max_difference``.
* ``files``: a list of ``path``, ``bytes``, ``sha256`` of every file but package.json.
* ``golden``: ``image`` (a JPEG or PNG file), ``decode``, ``resize``, ``crop`` (PNG files, the pixels after that stage;
  a stage that the preprocessing does not have is left out; they show true colours, so ``cv::imread`` gives BGR, to be
  reversed to RGB when ``to_rgb`` is true), the input of a stage being the recorded output of the one before it,
  ``tensor`` (the model's input, raw little-endian values of ``input.dtype``), ``tensor_shape`` (with batch 1),
  ``logits`` and ``output`` (raw little-endian float32, ``class_num`` values; ``output`` is what the forms give);
  ``output_int8``: what the int8 program gives by its own arithmetic, which an ARM board follows (int8 packages only;
  older ones lack it); and where there is a ``decision``, what it makes of ``output``: ``answer`` (``class_id``,
  ``score``, ``unsure``; of several labels ``class_ids``, ``scores``).
* ``bounds``: ``logits`` (1e-4) and ``probabilities`` (1e-5): the largest absolute difference that fp32 may show, more
  where this network's own float32 is seen to be rough: 32 times what it differs by from double precision;
  ``int8`` (0.05): that a board's int8 probabilities may show against ``output_int8``.
* ``versions``: of the software that wrote it, and ``lite_runtime`` (the Paddle Lite version that an ``.nb`` needs).
* ``sha256``: of everything else in package.json, its keys sorted and without spaces.
* ``accuracy``: measured accuracies, each with ``form``, ``top1``, ``top5``, ``samples``; an empty list if none was.
  Rows of an int8 package also have ``engine``, ``processor`` (``"armv8"``, ``"x86_64"``, ...: where these numbers
  hold), ``computed`` (true: by the int8 program's own arithmetic, which is what an ARM board follows; false: run by
  that engine on that processor) and ``agreement`` (the share of photos with float's top-1).

A folder without package.json but with ``inference.yml`` (written by PaddleClas) opens too, without its guarantees.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from ppmobilenet import __version__
from ppmobilenet.errors import DamagedFileError, UserError, did_you_mean
from ppmobilenet.field import inference_yml
from ppmobilenet.field.package_shape import AGAIN, check_shape
from ppmobilenet.field.preprocessing import Ops, as_transform_ops, spell_out

FORMAT = "ppmobilenet-package"
FORMAT_VERSION = 2
BOUNDS = {"logits": 1e-4, "probabilities": 1e-5, "int8": 0.05}
MAX_STRING = 2000
MAX_DEPTH = 32


def _check_json(value: object, where: str = "package.json", depth: int = 0) -> None:
    """Refuse what OpenCV 4.6's cv::FileStorage would misread, or the board's program."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{where[:40]}... goes deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _check_json(key, where, depth)
            _check_json(entry, f"{where}: {key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            _check_json(entry, f"{where}[{number}]", depth + 1)
    elif isinstance(value, str):
        if len(value.encode()) > MAX_STRING:
            raise UserError(f"a text of {len(value.encode())} bytes, {value[:40]!r}...", where=where, allowed="2000")
        if any(ord(c) < 32 or ord(c) == 127 for c in value) or value.startswith("$base64$"):
            raise UserError(f"a text with a control character, {value!r}", where=where)
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if abs(value) >= 2**31:
            raise ValueError(f"{where}: {value} does not fit 31 bits")
    elif isinstance(value, float):
        if not np.isfinite(value):
            raise ValueError(f"{where}: {value} is not a number")
    else:
        raise TypeError(f"{where}: {type(value).__name__} is not written to package.json")


def dump_json(meta: Mapping, path: Path) -> None:
    """Write package.json and its own sha256: one entry a line, UTF-8, only what cv::FileStorage reads."""
    _check_json(meta)
    meta = {**meta, "sha256": _digest(meta)}
    path.write_text(json.dumps(meta, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _digest(meta: Mapping) -> str:
    rest = {key: value for key, value in meta.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def measured_on(row: Mapping) -> str:
    """Return where the numbers of one ``accuracy`` row hold: ``"x86_64"``, ``"armv8, computed"``, ``""`` if unknown."""
    return row.get("processor", "") + (", computed" if row.get("computed") else "")


def list_files(folder: Path) -> list[dict]:
    """Return path, bytes and sha256 of every file below the folder but package.json."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "package.json")
    return [{"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths]


def write_package(folder: Path, meta: Mapping, ops: Ops) -> None:
    """Complete a folder that holds the models and golden/: write inference.yml, then package.json last.

    Args:
        folder: where the models are.
        meta: the keys of package.json (see the module) except those that are computed here: format, format_version,
            preprocess, files, sha256; and ``bounds`` where they are not the usual ones.
        ops: the deployment transform list.
    """
    several = meta.get("decision", {}).get("several", False)
    theirs = inference_yml.content(meta["name"], ops, meta["labels"], meta["topk"])
    if theirs is not None and not several:  # what the file can say is which classes are the best
        text = yaml.safe_dump(theirs, sort_keys=False, allow_unicode=True)
        (folder / "inference.yml").write_text(text, encoding="utf-8")
    full = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION if meta.get("decision", {}).keys() & {"several", "threshold"} else 1,
        "bounds": BOUNDS,
        **meta,
        "preprocess": {"decoder": "opencv", "exif": "rotate", "rounding": "half-even", "ops": spell_out(ops)},
        "files": list_files(folder),
    }
    dump_json(full, folder / "package.json")


def read_json(path: Path) -> dict:
    """Read package.json and check that this version of the software understands it.

    Raises:
        DamagedFileError: it is none, or does not hold what its readers reach for.
        UserError: it is of a newer version.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"package.json is not readable: {error}", where=path, hint=AGAIN) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DamagedFileError(f'this is not a package: "format" is not {FORMAT!r}', where=path, hint=AGAIN)
    version = meta.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DamagedFileError(
            f"package.json was altered: format_version is {version!r}",
            where=path.parent,
            allowed=f"1 to {FORMAT_VERSION}",
            hint=AGAIN,
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"the package has format version {version}, this software ({__version__}) reads up to {FORMAT_VERSION}",
            where=path,
            hint="upgrade ppmobilenet (pip install -U ppmobilenet), or export again with this version",
        )
    check_shape(meta, path.parent)
    try:
        _check_json(meta)  # what no reader reaches for is hashed and printed, too
    except (UserError, ValueError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise DamagedFileError(f"package.json was altered: {said}", where=path.parent, hint=AGAIN) from error
    return meta


@dataclass(frozen=True)
class Package:
    """An opened package.

    Attributes:
        folder: where it lies.
        meta: the content of package.json (made up from inference.yml for a folder that PaddleClas wrote).
    """

    folder: Path
    meta: Mapping
    _checked: dict = field(default_factory=dict, repr=False)  # path -> what told the file that was checked from another

    @property
    def ops(self) -> list[dict[str, dict]]:
        """The preprocessing in PaddleClas's shape."""
        return as_transform_ops(self.meta["preprocess"]["ops"])

    @property
    def labels(self) -> list[str]:
        return self.meta["labels"]

    @property
    def altered(self) -> bool:
        """Whether package.json is not as export wrote it."""
        return self.meta.get("sha256") != _digest(self.meta)

    def missing(self) -> list[str]:
        """Return the listed files that are not there."""
        return [entry["path"] for entry in self.meta["files"] if not (self.folder / entry["path"]).is_file()]

    def forms(self, engine: str | None = None, precision: str | None = None) -> list[Mapping]:
        """Return the forms for one engine and precision, in the order they were written."""
        return [
            form
            for form in self.meta["forms"]
            if engine in (None, form["engine"]) and precision in (None, form["precision"])
        ]

    def form(self, name: str) -> Mapping:
        """Return the form of that name; UserError says which there are."""
        for form in self.meta["forms"]:
            if form["name"] == name:
                return form
        names = [form["name"] for form in self.meta["forms"]]
        raise UserError(f"the package has no form {name!r}", where=self.folder, hint=did_you_mean(name, names))

    def files_of(self, form: Mapping) -> list[Path]:
        """Return a form's files, each checked (once, while it is the same file) against its stored size and sha256."""
        return [self.check_file(path) for path in form["files"]]

    def check_file(self, path: str) -> Path:
        """Return the absolute path of one file of the package.

        Raises:
            DamagedFileError: it is missing, or its bytes are not those that were exported.
        """
        if os.path.isabs(path) or ".." in Path(path).parts:
            raise DamagedFileError(f"the file {path!r} lies outside the package", where=self.folder)
        full = self.folder / path
        if not full.is_file():
            raise DamagedFileError(f"the file {path!r} is missing from the package", where=self.folder, hint=AGAIN)
        stat = full.stat()
        same = (
            stat.st_ino,
            stat.st_size,
            stat.st_mtime_ns,
        )  # an open package may be replaced, and its labels are old then
        if self._checked.get(path) == same:
            return full
        for entry in self.meta.get("files", ()):
            if entry["path"] != path:
                continue
            if stat.st_size != entry["bytes"]:
                raise DamagedFileError(
                    f"{path!r} has {stat.st_size} bytes, the package says {entry['bytes']}",
                    where=self.folder,
                    hint=AGAIN,
                )
            if sha256(full) != entry["sha256"]:
                raise DamagedFileError(
                    f"{path!r} was changed after the export (sha256 differs)", where=self.folder, hint=AGAIN
                )
        self._checked[path] = same
        return full

    def golden(self, key: str) -> np.ndarray:
        """Return a recorded array: ``"tensor"`` (batch 1), or of ``[class_num]``: ``"logits"``, ``"output"``, ..."""
        entry = self.meta["golden"]
        dtype = self.meta["input"]["dtype"] if key == "tensor" else "float32"
        values = np.frombuffer(self.check_file(entry[key]).read_bytes(), np.dtype(dtype).newbyteorder("<"))
        shape = entry["tensor_shape"] if key == "tensor" else [self.meta["class_num"]]
        if values.size != np.prod(shape):
            raise DamagedFileError(f"{entry[key]!r} holds {values.size} values, not {shape}", where=self.folder)
        return values.reshape(shape)


def open_package(folder: str | Path, *, unaltered: bool = True) -> Package:
    """Open an exported folder. The files themselves are checked when they are first used.

    Args:
        folder: what an export wrote.
        unaltered: refuse a package.json that was changed since.

    Raises:
        UserError: it is not one, or is of a newer version.
        DamagedFileError: package.json is damaged, altered or missing.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder", hint="give the folder that `ppmobilenet export` wrote")
    if (folder / "package.json").is_file():
        meta = read_json(folder / "package.json")
        package = Package(folder, meta)
        if unaltered and package.altered:
            raise DamagedFileError(
                "package.json was changed after the export (sha256 differs)",
                where=folder,
                hint="copy the package again, or export again with what is to be changed",
            )
        return package
    if (folder / "golden").is_dir():
        raise DamagedFileError(
            "package.json is missing from the package", where=folder, hint="copy the package again, whole"
        )
    if (folder / "inference.yml").is_file():
        return Package(folder, inference_yml.as_package(folder))
    raise UserError(
        "there is neither package.json nor inference.yml",
        where=folder,
        hint="export the model with `ppmobilenet export -c CONFIG -o Global.pretrained_model=...`",
    )
