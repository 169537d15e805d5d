"""A network whose answers another one learns: built here and frozen, or what a run, a package or an ONNX file is."""

from __future__ import annotations

import hashlib
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppmobilenet.config import Config, load_config, parts
from ppmobilenet.errors import UserError, nearest
from ppmobilenet.field.backends import open_backend, sample_input, usable
from ppmobilenet.field.decision import Decision
from ppmobilenet.field.package import Package, open_package, sha256
from ppmobilenet.field.preprocessing import Ops, deployment_ops, spell_out
from ppmobilenet.kernels import accelerate
from ppmobilenet.machine import usable_cores
from ppmobilenet.models.family import VARIANTS, classifier_of
from ppmobilenet.models.network import Network
from ppmobilenet.registry import PACKAGE, TEACHERS, is_run
from ppmobilenet.telling import log
from ppmobilenet.training.distillation import FEATURES, LOGITS
from ppmobilenet.training.start import Start, load_start, network_for_answers, require_start
from ppmobilenet.zoo import create_model


def Exported() -> None:
    """The name of what a run's folder, a package or an ONNX file is (``Teacher.pretrained``): it needs no other."""


OF_PIXELS = ("DecodeImage", "NormalizeImage")  # transforms that say what the numbers of an image mean
TEACHERS.show(ChainMap({"Exported": Exported}, VARIANTS))


class Stages:
    """What some layers of a network gave in its last forward pass.

    Args:
        network: that runs.
        names: of layers, as PaddleClas writes them, ``blocks[2]``, or as Paddle does, ``blocks.2``; or FEATURES.
        whose: ``Arch`` or ``Teacher``, for messages.

    Raises:
        UserError: there is no such layer.
    """

    def __init__(self, network: nn.Layer, names: Iterable[str], whose: str):
        self._seen: dict[str, paddle.Tensor] = {}
        layers = dict(network.named_sublayers())
        # in front of dropout where it is known what that is: the classifier gets noise
        last = "dropout" if isinstance(network, Network) else classifier_of(network)
        for name in names:
            if name == FEATURES and last in layers:
                layers[last].register_forward_pre_hook(lambda layer, given: self._keep(FEATURES, given[0]))
                continue
            path = re.sub(r"\[(\d+)\]", r".\1", name)
            if path not in layers:
                near = nearest(path, [FEATURES, LOGITS, *layers])
                top = ", ".join(each for each in layers if "." not in each)
                hint = f"did you mean {near!r}?" if near else f"known: {FEATURES}, {LOGITS}, {top} and what is in these"
                raise UserError(f"{whose} has no layer {name!r}", where="Loss.Train", hint=hint)
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

    def watch(self, names: Sequence[str]) -> Stages:
        """Return what those layers give from now on.

        Raises:
            UserError: there is no such layer, or none can be seen.
        """
        if self.network is None:
            raise UserError(
                f"a loss asks for the teacher's {names[0]}, and {self.said} gives its answers only",
                where="Loss.Train",
                hint="leave the loss's key out, or name a network whose layers are here: Teacher.pretrained=output/RUN",
            )
        return Stages(self.network, names, "Teacher")


class Asked:
    """All that losses ask of a teacher, one row of numbers a photo: its logits, then what some of its layers give.

    Args:
        teacher: that answers.
        names: of the layers.

    Attributes:
        digest: of all that the rows depend on.

    Raises:
        UserError: there is no such layer, or none can be seen.
    """

    def __init__(self, teacher: Teacher, names: Sequence[str]):
        self._teacher, self._names = teacher, tuple(names)
        self._stages = teacher.watch(self._names) if self._names else {}
        self._shapes: list[list[int]] = []
        self.digest = f"{teacher.digest} {' '.join(self._names)}".strip()

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        logits = self._teacher(images)
        given = [logits, *(self._stages[name] for name in self._names)]
        self._shapes = [x.shape[1:] for x in given]
        return paddle.concat([x.astype("float32").flatten(1) for x in given], axis=1) if self._names else logits

    def parted(self, rows: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Return rows, of photos of the size that was asked about last, as logits and layers' outputs, by name."""
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        parts = paddle.split(rows, sizes, axis=1) if self._names else [rows]
        return {
            name: part.reshape([len(rows), *shape])
            for name, part, shape in zip((LOGITS, *self._names), parts, self._shapes)
        }


def build_teacher(
    teacher: parts.Teacher, class_num: int, ops: Ops, *, device: str, cpu_kernels: str = "auto", random: bool = False
) -> Teacher:
    """Build what ``Teacher`` describes.

    Args:
        teacher: the config's part.
        class_num: of the student.
        ops: the training transforms, of which a whole network's own may differ: it is fed what it was made for.
        device: where to compute.
        cpu_kernels: ``Global.cpu_kernels``.
        random: a network without weights may teach.

    Raises:
        UserError, DamagedFileError: no weights are named, they do not fit, or other classes.
    """
    if teacher.class_num not in (None, class_num):
        _refuse_classes(f"Teacher.class_num is {teacher.class_num}", teacher.class_num, class_num)
    file = teacher.pretrained
    if isinstance(file, str) and file.startswith(PACKAGE):
        return _from_package(file[len(PACKAGE) :], class_num, ops)
    if isinstance(file, str) and file.endswith(".onnx"):
        return _from_onnx(Path(file), class_num)
    if isinstance(file, str) and is_run(file):
        return _from_run(file, class_num, ops, partial(_frozen, device=device, cpu_kernels=cpu_kernels))
    if teacher.name == "Exported":
        raise UserError(
            f"Teacher.pretrained is {file!r}, and no Teacher.name says of which network these are weights",
            where="Teacher",
            allowed="Teacher.name and weights of it, or a whole network: the folder of a run, output/RUN; "
            f"{PACKAGE}DIR; or an ONNX file FILE.onnx",
        )
    if not file and not random:
        raise UserError(
            "the teacher has no weights: its answers would be random",
            where="Teacher.pretrained",
            hint="-o Teacher.pretrained=output/TEACHER, True for the published weights, or --random-init",
        )
    network = create_model(teacher.name, **{**teacher.parameters, "class_num": class_num})
    if file:
        load_start(network, Start("Teacher.pretrained", file, teacher.name, teacher.use_ssld))
        _refuse_other_pixels(file, ops)
    about = (teacher.name, sorted(teacher.parameters.items()))
    return _frozen(network, teacher.name, about, device=device, cpu_kernels=cpu_kernels)


def _frozen(
    network: nn.Layer, said: str, about: object, bridge: Bridge | None = None, *, device: str, cpu_kernels: str
) -> Teacher:
    """Freeze a network for good; ``about`` is what its answers depend on besides its weights."""
    for parameter in network.parameters():
        parameter.stop_gradient, parameter.trainable = True, False
    network.eval()
    if device == "cpu":
        log.info("teacher: %s", accelerate(network, cpu_kernels).message)
    digest = hashlib.sha256(repr(about if bridge is None else (about, bridge.said())).encode())
    for value in network.state_dict().values():
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    log.info(
        "teacher: %s is frozen in evaluation mode (PaddleClas leaves a frozen teacher in training mode: its batch norm "
        "takes each batch's statistics, and drifts, and its dropout drops; answers differ from those)",
        said,
    )
    return Teacher(said, digest.hexdigest(), bridge.before(network) if bridge else network, network)


def _from_run(folder: str, class_num: int, ops: Ops, freeze: Callable[..., Teacher]) -> Teacher:
    config = load_config(folder)
    if config.arch.class_num != class_num:
        _refuse_classes(f"{folder} is of {config.arch.class_num} classes", config.arch.class_num, class_num)
    network = network_for_answers(config.arch, require_start(config.weights))
    about = (config.arch.name, sorted(config.arch.parameters.items()))
    return freeze(network, f"{config.arch.name} of {folder}", about, _bridge(ops, _ops_of(config)))


def _ops_of(config: Config) -> Ops:
    return (config.eval or config.train).dataset.transform_ops


def _refuse_other_pixels(file: str | bool, ops: Ops) -> None:
    """Refuse weights that lie in a run's folder whose photos were normalised otherwise: the answers would be wrong."""
    folder = Path(str(file)).parent
    if is_run(str(folder)) and _bridge(ops, _ops_of(load_config(folder))) is not None:
        raise UserError(
            f"the run in {folder} saw its photos normalised otherwise than this one does",
            where="Teacher.pretrained",
            hint=f"name the run itself, which is fed what it was trained on: -o Teacher.pretrained={folder}",
        )


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
        _exported(run, meta["input"], _bridge(ops, package.ops), kind),
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
    return Teacher(str(file), sha256(file), _exported(run, given, None, kind))


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
    bridge: Bridge | None,
    kind: str,
) -> Callable[[paddle.Tensor], paddle.Tensor]:
    """Return an engine as a function of the student's batches.

    Args:
        run: the engine.
        given: ``input`` of a package.
        bridge: from the student's pixels to the teacher's, where they differ.
        kind: of its answers: ``"logits"``; ``"probabilities"``, whose logarithms are logits too; ``"each"``: those of
            several labels, each by itself.
    """
    channels_last = given["layout"] == "NHWC"
    height, width = given["shape"][1:3] if channels_last else given["shape"][2:4]

    def answers(images: paddle.Tensor) -> paddle.Tensor:
        if height > 0 and list(images.shape[2:]) != [height, width]:
            images = F.interpolate(images, [height, width], mode="bilinear")
        batch = images.numpy() if bridge is None else bridge(images.numpy(), np.asarray)
        batch = np.clip(np.rint(batch), 0, 255).astype(np.uint8) if given["dtype"] == "uint8" else batch
        batch = batch.transpose(0, 2, 3, 1) if channels_last else batch
        answer = run(np.ascontiguousarray(batch))
        if kind != "logits":
            answer = np.clip(answer, 1e-7, 1 - 1e-7) if kind == "each" else np.maximum(answer, 1e-12)
            answer = np.log(answer) - (np.log1p(-answer) if kind == "each" else 0)
        return paddle.to_tensor(answer.astype(np.float32))

    return answers


@dataclass(frozen=True)
class Bridge:
    """From images as one network takes them to those of another, both [N, 3, H, W]: reversed channels, then a line.

    Attributes:
        flipped: one has RGB and the other BGR.
        factor, offset: float32 [1, 3, 1, 1].
    """

    flipped: bool
    factor: np.ndarray
    offset: np.ndarray

    def __call__(self, images, constant: Callable):
        """Return the images, an array or a tensor, as the other network takes them; ``constant`` makes such a thing."""
        images = images[:, [2, 1, 0]] if self.flipped else images
        return images * constant(self.factor) + constant(self.offset)

    def before(self, network: nn.Layer) -> Callable[[paddle.Tensor], paddle.Tensor]:
        """Return the network as a function of the first network's images."""
        return lambda images: network(self(images, paddle.to_tensor))

    def said(self) -> tuple:
        """Return all of it as plain values."""
        return self.flipped, self.factor.ravel().tolist(), self.offset.ravel().tolist()


def _bridge(ops: Ops, theirs: Ops) -> Bridge | None:
    """Return what leads from images that ``ops`` made to those of other transforms; None: nothing is to be done."""
    made, wanted = (
        {op["op"]: op for op in spell_out(deployment_ops([op for op in side if next(iter(op)) in OF_PIXELS]))}
        for side in (ops, theirs)
    )
    flipped = made["DecodeImage"]["to_rgb"] != wanted["DecodeImage"]["to_rgb"]
    scale, mean, std = _numbers(made)
    to_scale, to_mean, to_std = _numbers(wanted)
    if flipped:
        mean, std = mean[::-1], std[::-1]
    factor, offset = std / scale * to_scale / to_std, (mean / scale * to_scale - to_mean) / to_std
    if not flipped and np.allclose(factor, 1, atol=1e-7) and np.allclose(offset, 0, atol=1e-7):
        return None
    return Bridge(flipped, *(x.reshape(1, 3, 1, 1).astype(np.float32) for x in (factor, offset)))


def _numbers(ops: Mapping[str, Mapping]) -> tuple[float, np.ndarray, np.ndarray]:
    """Return scale, mean and std [3] of a normalisation; without one, pixels stay what they are."""
    op = ops.get("NormalizeImage") or {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
    return op["scale"], np.array(op["mean"], np.float64), np.array(op["std"], np.float64)
