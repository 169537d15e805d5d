"""What was published of each family: whose files keep its tensors where, and what they are worth. One file a family.

:func:`register` makes a family's layouts known, also one outside of the package. Nothing here needs paddle.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ppmobilenet.weights.schemes import Scheme

# who published
PC = "PaddleClas, docs/zh_CN/models/ImageNet1k"
PS = "PaddleSlim, docs/zh_cn/model_zoo.md"
TF = "tensorflow/models, research/slim/nets"
# where PaddleClas's MODEL_URLS keep the files
PADDLE_FILES = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"
# how a published multiply-add figure was counted
AS_BUILT = "convolutions and classifier as built"
AS_PAPER = "without the first block's expand convolution, which the paper's network has not"
WITH_NORM = "with two operations a value in each batch norm"
NORM_ONCE = "with one operation a value in each batch norm"

# width multipliers that files were seen to have
SCALES = (0.1, 0.125, 0.25, 0.35, 0.5, 0.75, 1.0, 1.1, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Untold:
    """What a network of the same shapes may do otherwise, and no weight file tells: it has to be tried on photos.

    Attributes:
        arguments: of the network.
        mean, std: of its pixels, which are from 0 to 1 before.
    """

    arguments: Mapping
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Layouts:
    """What is known of a family's files.

    Attributes:
        family: its name, as in :class:`ppmobilenet.models.Family`.
        schemes: whose files name its tensors how; the first is PaddleClas's and the network's own.
        guess: (channels of the first convolution, of each block's output, neutral name -> shape) -> the arguments that
            build a network of these widths, ``scale`` first; None if none does.
        in_order: a letter a convolution (``c`` standard, ``d`` depthwise, ``p`` 1x1) -> the neutral names of all
            units; None if this is no such network. For files that name by position. A unit is a convolution with its
            batch norm or, if ``plain``, its bias; one with ``:conv``, ``:norm`` or ``:gamma`` behind is that alone.
        plain: units with a bias and without a batch norm: ``("se1", "se2")``.
        activation: of the published networks.
        identity_expansion: where a file lacks the first block's expand convolution, the identity stands for it: right
            where its input comes from ReLU or ReLU6.
        writes: other projects' naming -> function (neutral name -> array) -> neutral unit -> (convolution, batch norm):
            ``""`` where a bias stands for the batch norm, None where the layer is linear there, too.
        published: PaddleClas's files: (model, arguments, parameters, multiply-adds of one 224x224 image, top-1, top-5,
            published millions of parameters, published millions of multiply-adds, their source, how it counted).
        adapt: (neutral arrays, what the file's networks compute with, what the model does) -> notes; changes the arrays
            of a file whose networks compute otherwise so that the model gives the same outputs.
        refusal: as ``guess``, for shapes that are of the family and of no network of it here: what they are.
        untold: how networks of others with these shapes see photos, where that is not as the published ones do.
        ssld: model -> top-1, top-5 of the file that SSLD distillation trained.
        md5: model -> of the file, where it is known.
        evaluated: model -> side of the image in its evaluation, whole, where it is not 224 cut from 256.
        address: where these files are.
        accuracy: others' figures: (source, precision, scale, {resolution: (top-1, top-5)}).
        latency: (source, precision, scale, device, {resolution: milliseconds on 1, 2, 4 threads}); in place of a scale
            a model's name may stand, here and in ``accuracy``.
    """

    family: str
    schemes: tuple[Scheme, ...]
    guess: Callable[[int, list[int], Mapping[str, tuple[int, ...]]], dict | None]
    in_order: Callable[[str], list[str] | None] = lambda kinds: None
    plain: tuple[str, ...] = ()
    activation: str = "relu"
    identity_expansion: bool = False
    writes: Mapping[str, Callable[[Mapping], dict[str, tuple[str, str | None]]]] = field(default_factory=dict)
    adapt: Callable[[dict, Mapping[str, float], Mapping[str, float]], list[str]] = lambda arrays, theirs, ours: []
    refusal: Callable[[int, list[int], Mapping[str, tuple[int, ...]]], str | None] = lambda stem, outs, shapes: None
    published: tuple[tuple, ...] = ()
    untold: tuple[Untold, ...] = ()
    ssld: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    md5: Mapping[str, str] = field(default_factory=dict)
    evaluated: Mapping[str, int] = field(default_factory=dict)
    address: str = PADDLE_FILES
    accuracy: tuple[tuple, ...] = ()
    latency: tuple[tuple, ...] = ()


LAYOUTS: dict[str, Layouts] = {}


def register(layouts: Layouts) -> Layouts:
    """Make a family's layouts known to loading, conversion and the tables of what was published.

    Raises:
        ValueError: the family has layouts already.
    """
    if layouts.family in LAYOUTS:
        raise ValueError(f"layouts of {layouts.family!r} are registered twice")
    LAYOUTS[layouts.family] = layouts
    return layouts


def scales(width: int, channels: int) -> Iterator[float]:
    """Yield the multipliers that may make ``width`` of ``channels``, the usual ones first."""
    yield from SCALES
    yield round(width / channels, 4)


def number_blocks(blocks: list[tuple[str, ...]]) -> list[str]:
    """Return ``["stem", "block.0.dw", ...]`` for the units of each block."""
    return ["stem"] + [f"block.{i}.{unit}" for i, block in enumerate(blocks) for unit in block]


def count_blocks(names: Iterable[str]) -> int:
    """Return how many blocks neutral names tell of."""
    return 1 + max(int(name.split(".")[1]) for name in names if name.startswith("block."))


for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
