"""A network whose answers another one learns: built here and frozen, or whatever a package or an ONNX file computes."""

from __future__ import annotations

import hashlib
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.config import parts
from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.field.backends import open_backend, sample_input, usable
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.package import Package, open_package, sha256
from ppmobilenet.field.preprocessing import Ops, deployment_ops, spell_out
from ppmobilenet.kernels import accelerate
from ppmobilenet.machine import usable_cores
from ppmobilenet.models.family import VARIANTS
from ppmobilenet.registry import PACKAGE, TEACHERS, is_exported
from ppmobilenet.telling import log
from ppmobilenet.training.start import Start, load_start
from ppmobilenet.zoo import create_model


def Exported() -> None:
    """The name of what comes out of a package or an ONNX file (``Teacher.pretrained``): it needs no other."""


TEACHERS.show(ChainMap({"Exported": Exported}, VARIANTS))


class Stages:
    """What some layers of a network gave in its last forward pass.

    Args:
        network: that runs.
        names: of layers, as PaddleClas writes them, ``blocks[2]``, or as Paddle does, ``blocks.2``.
        whose: ``Arch`` or ``Teacher``, for messages.

    Raises:
        UserError: there is no such layer.
    """

    def __init__(self, network: nn.Layer, names: Iterable[str], whose: str):
        self._seen: dict[str, paddle.Tensor] = {}
        layers = dict(network.named_sublayers())
        for name in names:
            path = re.sub(r"\[(\d+)\]", r".\1", name)
            if path not in layers:
                raise UserError(f"{whose} has no layer {name!r}", where="Loss.Train", hint=did_you_mean(path, layers))
            layers[path].register_forward_post_hook(lambda layer, given, output, name=name: self._keep(name, output))

    def _keep(self, name: str, output: paddle.Tensor) -> None:
        self._seen[name] = output

    def __getitem__(self, name: str) -> paddle.Tensor:
        return self._seen[name]


class Teacher:
    """``teacher(images) -> logits`` without gradient; nothing of it ever changes.

    Attributes:
        said: what it is, for the log.
        digest: of all that its answers depend on.
        network: where it is a layer: in evaluation mode, for good.
    """

    def __init__(
        self,
        said: str,
        digest: str,
        run: Callable[[paddle.Tensor], paddle.Tensor],
        network: nn.Layer | None = None,
    ):
        self.said, self.digest, self.network, self._run = said, digest, network, run

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        with paddle.no_grad():
            return self._run(images)

    def watch(self, names: Sequence[str]) -> Stages | None:
        """Return what those layers give from now on; None where none is asked for.

        Raises:
            UserError: there is no such layer, or none can be seen.
        """
        if not names:
            return None
        if self.network is None:
            raise UserError(
                f"a loss asks for the teacher's {names[0]}, and {self.said} gives its answers only",
                where="Loss.Train",
                hint="leave the loss's key out, or build the teacher: Teacher.name, and weights as Teacher.pretrained",
            )
        return Stages(self.network, names, "Teacher")


def build_teacher(
    teacher: parts.Teacher, class_num: int, ops: Ops, *, device: str, cpu_kernels: str = "auto", random: bool = False
) -> Teacher:
    """Build what ``Teacher`` describes.

    Args:
        teacher: the config's part.
        class_num: of the student.
        ops: the training transforms, of which an exported teacher's own may differ.
        device: where to compute.
        cpu_kernels: ``Global.cpu_kernels``.
        random: a network without weights may teach.

    Raises:
        UserError, DamagedFileError: no weights are named, they do not fit, or other classes.
    """
    if teacher.class_num not in (None, class_num):
        _refuse_classes(f"Teacher.class_num is {teacher.class_num}", teacher.class_num, class_num)
    file = teacher.pretrained
    if isinstance(file, str) and is_exported(file):
        return (
            _from_package(file[len(PACKAGE) :], class_num, ops)
            if file.startswith(PACKAGE)
            else _from_onnx(Path(file), class_num)
        )
    if teacher.name == "Exported":
        raise UserError(
            f"Teacher.pretrained is {file!r}, and no Teacher.name says of which network these are weights",
            where="Teacher",
            allowed=f"Teacher.name and weights of it, or a whole network: {PACKAGE}DIR, or an ONNX file FILE.onnx",
        )
    if not file and not random:
        raise UserError(
            "the teacher has no weights: its answers would be random",
            where="Teacher.pretrained",
            hint="-o Teacher.pretrained=output/TEACHER/best_model, True for the published weights, or --random-init",
        )
    return _built(teacher, class_num, device, cpu_kernels)


def _built(teacher: parts.Teacher, class_num: int, device: str, cpu_kernels: str) -> Teacher:
    network = create_model(teacher.name, **{**teacher.parameters, "class_num": class_num})
    if teacher.pretrained:
        load_start(network, Start("Teacher.pretrained", teacher.pretrained, teacher.name, teacher.use_ssld))
    for parameter in network.parameters():
        parameter.stop_gradient, parameter.trainable = True, False
    network.eval()
    if device == "cpu":
        log.info("teacher: %s", accelerate(network, cpu_kernels).message)
    digest = hashlib.sha256(repr((teacher.name, sorted(teacher.parameters.items()))).encode())
    for value in network.state_dict().values():
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    log.info(
        "teacher: %s is frozen in evaluation mode (PaddleClas leaves a frozen teacher in training mode: its batch norm "
        "takes each batch's statistics, and drifts, and its dropout drops; answers differ from those)",
        teacher.name,
    )
    return Teacher(teacher.name, digest.hexdigest(), network, network)


def _from_package(folder: str, class_num: int, ops: Ops) -> Teacher:
    package = open_package(Path(folder))
    meta = package.meta
    if meta["class_num"] != class_num:
        _refuse_classes(f"{folder} is of {meta['class_num']} classes", meta["class_num"], class_num)
    kind = meta["output"]["kind"]
    engine = next((name for name in ("onnxruntime", "paddle") if name in usable(package, "fp32")), "auto")
    name, form, run = open_backend(package, engine, usable_cores(), "fp32")[:3]
    if kind == "unknown":  # a folder that PaddleClas wrote
        kind = _kind(run(sample_input(package, 2)))
    elif kind == "probabilities" and Decision.of(meta).several:
        kind = "each"
    return Teacher(
        f"{PACKAGE}{folder}",
        hashlib.sha256(repr([sha256(package.folder / file) for file in form["files"]]).encode()).hexdigest(),
        _exported(run, meta["input"], _bridge(package, ops), kind),
    )


def _from_onnx(file: Path, class_num: int) -> Teacher:
    if not file.is_file():
        raise UserError("there is no such ONNX file", where=f"Teacher.pretrained, {file}")
    form = {"name": "onnx", "engine": "onnxruntime", "precision": "fp32", "files": [file.name]}
    meta = {
        "input": {"dtype": "float32", "layout": "NCHW", "shape": [-1, 3, 1, 1]},
        "files": [],
        "forms": [form],
    }
    run = open_backend(Package(file.parent, meta), "onnxruntime", usable_cores(), "fp32")[2]
    shape = list(run.input_shape)
    if shape[:1] == [1]:
        form["batch"] = 1
    given = {**meta["input"], "shape": [-1, *(side if isinstance(side, int) else -1 for side in shape[1:])]}
    sides = [side if side > 0 else 224 for side in given["shape"][2:]]
    if len(sides) != 2 or given["shape"][1] not in (3, -1):
        raise UserError(f"the ONNX file takes {shape}", where=file, allowed="photos [N, 3, height, width]")
    noise = np.random.default_rng(0).normal(size=(2, 3, *sides)).astype(np.float32)
    answer = np.concatenate([run(noise[i : i + 1]) for i in range(2)])
    if answer.ndim != 2 or answer.shape[1] != class_num:
        _refuse_classes(f"{file} answers {list(answer.shape[1:])} numbers a photo", answer.shape[-1], class_num)
    kind = _kind(answer)
    log.info("teacher: %s gives %s; it is fed what the student is", file, kind)
    return Teacher(str(file), sha256(file), _exported(run, given, lambda x: x, kind))


def _kind(answer: np.ndarray) -> str:
    """Tell probabilities from logits by what a network made of noise."""
    shares = answer.min() >= 0 and np.allclose(answer.sum(axis=-1), 1, atol=1e-3)
    return "probabilities" if shares else "logits"


def _refuse_classes(found: str, theirs: int, ours: int) -> None:
    raise UserError(
        f"{found}, and Arch.class_num is {ours}",
        where="Teacher",
        hint=f"a teacher is of the same classes: fine-tune it on them first, or -o Arch.class_num={theirs}",
    )


def _exported(
    run: Callable[[np.ndarray], np.ndarray],
    given: Mapping,
    bridge: Callable[[np.ndarray], np.ndarray],
    kind: str,
) -> Callable[[paddle.Tensor], paddle.Tensor]:
    """Return an engine as a function of the student's batches.

    Args:
        run: the engine.
        given: ``input`` of a package.
        bridge: from the student's float32 [N, 3, H, W] to the teacher's pixels or normalised input, still [N, 3, H, W].
        kind: of its answers: ``"logits"``; ``"probabilities"``, whose logarithms are logits too; ``"each"``: those of
            several labels, each by itself.
    """
    channels_last = given["layout"] == "NHWC"
    height, width = given["shape"][1:3] if channels_last else given["shape"][2:4]

    def answers(images: paddle.Tensor) -> paddle.Tensor:
        if height > 0 and list(images.shape[2:]) != [height, width]:
            images = F.interpolate(images, [height, width], mode="bilinear")
        batch = bridge(images.numpy())
        batch = batch.transpose(0, 2, 3, 1) if channels_last else batch
        answer = run(np.ascontiguousarray(batch))
        if kind != "logits":
            answer = np.clip(answer, 1e-7, 1 - 1e-7) if kind == "each" else np.maximum(answer, 1e-12)
            answer = np.log(answer) - (np.log1p(-answer) if kind == "each" else 0)
        return paddle.to_tensor(answer.astype(np.float32))

    return answers


def _bridge(package: Package, ops: Ops) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns the student's normalised images into a package's input, where they differ."""
    known = [op for op in ops if next(iter(op)) in ("DecodeImage", "NormalizeImage")]
    ours, theirs = ({op["op"]: op for op in spell_out(found)} for found in (deployment_ops(known), package.ops))
    flipped = ours["DecodeImage"]["to_rgb"] != theirs["DecodeImage"]["to_rgb"]
    pixels = package.meta["input"]["dtype"] == "uint8"

    def numbers(op: Mapping | None) -> tuple[np.ndarray, ...]:
        op = op or {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
        return op["scale"], *(np.array(op[key], np.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))

    (scale, mean, std), (to_scale, to_mean, to_std) = map(numbers, (o.get("NormalizeImage") for o in (ours, theirs)))

    def bridge(images: np.ndarray) -> np.ndarray:
        plain = (images * std + mean) / scale
        plain = plain[:, ::-1] if flipped else plain
        if pixels:
            return np.clip(np.rint(plain), 0, 255).astype(np.uint8)
        return ((plain * to_scale - to_mean) / to_std).astype(np.float32)

    same = not flipped and not pixels and (scale, *mean.flat, *std.flat) == (to_scale, *to_mean.flat, *to_std.flat)
    return (lambda images: images) if same else bridge
