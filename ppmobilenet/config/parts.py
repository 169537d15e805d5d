"""The sections of a configuration: PaddleClas's vocabulary, plus what is ours. These classes are the schema.

Each field says what its value may be, the value where a file gives none, and what it does. Checking, defaults and
messages read them from here (``schema.py``); functions take these parts as arguments.

Things that a registry holds (networks, transforms, losses, ...) bring their own keys, the parameters of their
constructors: ``parameters`` of a part that has a ``name``. A key that stands here and there is the constructor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ppmobilenet import registry
from ppmobilenet.config.fields import ByName, NamedPart, Part, Term, entries, key, section, terms
from ppmobilenet.config.kinds import (
    ABOVE_ZERO,
    BOOLEAN,
    DEVICE,
    MAPPING,
    TEXT,
    any_of,
    integer,
    list_of,
    number,
    one_of,
)

SHARDS = "ShardDataset"  # the data set whose photos lie in tars
Ops = tuple[Mapping[str, Any], ...]  # ({"CropImage": {"size": 224}}, ...)


@dataclass(frozen=True)
class Run(Part):
    """``Global``: what a run does, and where."""

    at: ClassVar[str] = "Global"

    data: str | None = key(TEXT, None, "folder of photos and lists: sets the paths of all of them")
    checkpoints: str | None = key(
        TEXT, None, "resume from these files (`output/latest`), or `auto`: the newest in output_dir"
    )
    pretrained_model: str | None = key(TEXT, None, "weights to start from, with or without the extension")
    output_dir: str = key(TEXT, "./output", "folder of checkpoints and logs")
    device: str = key(DEVICE, "gpu", "where to compute")
    epochs: int = key(integer(0), 120, "passes over the training list; 0: only what Arch.solve_head computes")
    seed: int | None = key(integer(0), None, "start of every random choice; None draws one and logs it")
    save_interval: int = key(integer(-1), 1, "write epoch_N every so many epochs; 0 or -1 never")
    eval_during_train: bool = key(BOOLEAN, True, "evaluate while training, and keep the best as best_model")
    eval_interval: int = key(integer(1), 1, "evaluate every so many epochs")
    start_eval_epoch: int = key(integer(0), 0, "do not evaluate before this epoch")
    print_batch_step: int = key(integer(1), 10, "log every so many steps")
    use_visualdl: bool = key(BOOLEAN, False, "write scalars, histograms and batches for VisualDL into output_dir/vdl")
    use_tensorboard: bool = key(BOOLEAN, False, "write the same for TensorBoard into output_dir/tensorboard")
    image_shape: tuple[int, int, int] | None = key(
        list_of(integer(1), 3), None, "[channels, height, width] of the exported input"
    )
    image_channel: int = key(one_of(3), 3, "channels of an image")
    save_inference_dir: str = key(TEXT, "./inference", "folder of the exported model")
    update_freq: int = key(integer(1), 1, "steps whose gradients are added before the weights change")
    class_num: int | None = key(integer(0), None, "PaddleClas's old place for Arch.class_num")
    use_multilabel: bool | None = key(BOOLEAN, None, "a photo has several labels: MultiLabelDataset")
    eval_mode: str = key(one_of("classification"), "classification", "how to evaluate")
    resolution: int | None = key(
        integer(32), None, "the paper's resolution multiplier: sets crops, resize and image_shape"
    )
    to_static: bool = key(BOOLEAN, False, "compile the training graph, on devices where that is faster")
    cpu_kernels: str = key(one_of("auto", "on", "off"), "auto", "compiled training operators for the CPU")
    on_nan: str = key(one_of("stop", "rollback"), "stop", "rollback: once back to the last good state at half the rate")
    check_data: str = key(one_of("lists", "full", "off"), "lists", "what is read of the data set before the first step")
    save_steps: int | None = key(
        integer(1), None, "write `latest` every so many changes of the weights, too, not just each epoch"
    )
    keep_checkpoints: int | None = key(integer(1), None, "keep only the newest N epoch_* checkpoints; None keeps all")


@dataclass(frozen=True)
class Amp(Part):
    """``AMP``: mixed precision."""

    at: ClassVar[str] = "AMP"

    use_amp: bool = key(BOOLEAN, False, "train in mixed precision where the device has it")
    use_fp16_test: bool = key(BOOLEAN, False, "evaluate in mixed precision too")
    scale_loss: float = key(ABOVE_ZERO, 1.0, "first loss scale")
    use_dynamic_loss_scaling: bool = key(BOOLEAN, False, "adapt the loss scale")
    use_promote: bool = key(BOOLEAN, False, "let an operator with mixed inputs compute in float32")
    level: str = key(one_of("O1", "O2"), "O1", "O1: chosen operators in float16; O2: all but batch norm")


@dataclass(frozen=True)
class Arch(NamedPart):
    """``Arch``: the network, and what training and export do with it."""

    at: ClassVar[str] = "Arch"
    by: ClassVar[ByName] = ByName(registry.MODELS)

    class_num: int = key(integer(0), 1000, "outputs; 0 gives the pooled features")
    pretrained: bool | str = key(any_of(BOOLEAN, TEXT), False, "True: the published weights; or a path")
    use_ssld: bool = key(BOOLEAN, False, "with pretrained: True, the distilled weights")
    freeze: tuple[str, ...] | str | None = key(
        any_of(list_of(TEXT), TEXT), None, "patterns of layer names that are not trained, or `trunk`"
    )
    freeze_norm: bool = key(BOOLEAN, False, "batch norm keeps the statistics it was loaded with, in all layers")
    cache_features: bool = key(BOOLEAN, False, "with a frozen trunk, compute its features once and keep them")
    solve_head: float | None = key(
        ABOVE_ZERO,
        None,
        "begin with the classifier that is best on the features as loaded: L2 penalty of the regression",
    )
    infer_add_softmax: bool = key(BOOLEAN, True, "the exported model ends in softmax")
    use_sync_bn: bool = key(BOOLEAN, False, "batch norm statistics over all processes (GPU)")
    return_patterns: tuple[str, ...] | None = key(
        list_of(TEXT), None, "layers whose outputs losses of distillation ask for by name: blocks[2]"
    )


@dataclass(frozen=True)
class Teacher(NamedPart):
    """``Teacher``: the network whose answers ``Arch`` learns; PaddleClas's DistillationModel is read as the two."""

    at: ClassVar[str] = "Teacher"
    by: ClassVar[ByName] = ByName(registry.TEACHERS, "Exported", supplied=frozenset({"class_num"}))

    class_num: int | None = key(integer(1), None, "outputs: those of Arch")
    pretrained: bool | str = key(
        any_of(BOOLEAN, TEXT),
        False,
        "True: the published weights; a path; or a whole network: a run, package:DIR, FILE.onnx",
    )
    use_ssld: bool = key(BOOLEAN, False, "with pretrained: True, the distilled weights")
    views: int = key(
        integer(0), 0, "a photo is seen in so many views that come again, each answered once; 0: a new one each epoch"
    )
    return_patterns: tuple[str, ...] | None = key(
        list_of(TEXT), None, "layers whose outputs losses of distillation ask for by name: blocks[2]"
    )


@dataclass(frozen=True)
class Schedule(NamedPart):
    """``Optimizer.lr``: the learning rate at each step."""

    at: ClassVar[str] = "Optimizer.lr"
    by: ClassVar[ByName] = ByName(
        registry.SCHEDULES, "ConstLR", supplied=frozenset({"epochs", "step_each_epoch", "steps_per_epoch"})
    )

    learning_rate: float | None = key(number(0), None, "peak learning rate")
    warmup_epoch: float = key(number(0), 0, "epochs of linear warm-up")
    warmup_start_lr: float = key(number(0), 0.0, "where the warm-up starts")
    by_epoch: bool = key(BOOLEAN, False, "change once an epoch instead of each step")
    base_batch_size: int | None = key(
        integer(1), None, "global batch size of the recipe: another one scales the rate in proportion"
    )


@dataclass(frozen=True)
class Regularizer(Part):
    """``Optimizer.regularizer``: the decay of weights."""

    at: ClassVar[str] = "Optimizer.regularizer"

    name: str = key(one_of("L1", "L2"), "L2", "which decay")
    coeff: float = key(number(0), 0.0, "its factor")


@dataclass(frozen=True)
class Optimizer(NamedPart):
    """``Optimizer``: how gradients change weights."""

    at: ClassVar[str] = "Optimizer"
    by: ClassVar[ByName] = ByName(registry.OPTIMIZERS, supplied=frozenset({"learning_rate", "parameters", "model"}))

    weight_decay: float | None = key(number(0), None, "decoupled or L2 decay, as the optimizer has it")
    no_weight_decay_name: str | None = key(TEXT, None, "words: parameters with one in their name do not decay")
    one_dim_param_no_weight_decay: bool = key(BOOLEAN, False, "biases and batch norm do not decay")
    clip_norm: float | None = key(number(0), None, "clip each gradient to this L2 norm")
    clip_global_norm: float | None = key(number(0), None, "clip all gradients together to this L2 norm")
    lr_mult: Mapping[str, float] | None = key(
        MAPPING, None, "{trunk, head or a layer pattern: factor on its learning rate}"
    )
    multi_precision: bool = key(BOOLEAN, False, "keep float32 weights beside float16 ones")
    lr: Schedule = section(Schedule, needed=True)
    regularizer: Regularizer = section(Regularizer)


@dataclass(frozen=True)
class Ema(Part):
    """``EMA``: the running average of the weights; without the section there is none."""

    at: ClassVar[str] = "EMA"

    decay: float = key(number(0, 1), 0.9999, "share of the old average at each step")


@dataclass(frozen=True)
class Dataset(NamedPart):
    """``DataLoader.Train.dataset`` or ``DataLoader.Eval.dataset``: which photos, and what is done to each."""

    by: ClassVar[ByName] = ByName(registry.DATASETS, supplied=frozenset({"class_num", "listed"}))

    image_root: str | None = key(TEXT, None, "folder that the list's paths are relative to")
    cls_label_path: str | None = key(TEXT, None, "list file, `path label` a line")
    delimiter: str | None = key(TEXT, None, "between path and label; None is a space")
    max_bad_samples: int = key(integer(0), 0, "unreadable training images that are skipped before training stops")
    transform_ops: Ops = entries(registry.TRANSFORMS)
    batch_transform_ops: Ops = entries(registry.BATCH_TRANSFORMS)


@dataclass(frozen=True)
class Sampler(NamedPart):
    """``sampler`` beside a data set: which photos make a batch."""

    by: ClassVar[ByName] = ByName(registry.SAMPLERS, "DistributedBatchSampler", closed=True)

    batch_size: int = key(integer(1), 64, "images a step and process")
    drop_last: bool = key(BOOLEAN, False, "leave out a last short batch")
    shuffle: bool = key(BOOLEAN, False, "another order each epoch")


@dataclass(frozen=True)
class Reading(Part):
    """``loader`` beside a data set: how photos are read."""

    num_workers: int = key(integer(0), 4, "processes or threads that read images")
    use_shared_memory: bool = key(BOOLEAN, True, "hand batches over in shared memory")


@dataclass(frozen=True)
class Source(Part):
    """Where batches come from.

    Attributes:
        mode: ``"Train"`` or ``"Eval"``.
        pipeline: how a photo becomes an image.
    """

    mode: ClassVar[str] = ""
    pipeline: ClassVar[str]

    dataset: Dataset = section(Dataset, needed=True)
    sampler: Sampler = section(Sampler, needed=True)
    loader: Reading = section(Reading)


@dataclass(frozen=True)
class TrainSource(Source):
    """``DataLoader.Train``."""

    at: ClassVar[str] = "DataLoader.Train"
    mode: ClassVar[str] = "Train"

    pipeline: str = key(one_of("exact", "fast"), "fast", "fast: decode no more pixels than needed")


@dataclass(frozen=True)
class UnlabelledSource(Source):
    """``DataLoader.UnLabelTrain``: photos without labels, for which a teacher's answers are learned too."""

    at: ClassVar[str] = "DataLoader.UnLabelTrain"
    mode: ClassVar[str] = "UnLabelTrain"

    pipeline: str = key(one_of("exact", "fast"), "fast", "fast: decode no more pixels than needed")


@dataclass(frozen=True)
class EvalSource(Source):
    """``DataLoader.Eval``."""

    at: ClassVar[str] = "DataLoader.Eval"
    mode: ClassVar[str] = "Eval"

    pipeline: str = key(one_of("exact", "fast"), "exact", "exact: the pixels PaddleClas computes")


@dataclass(frozen=True)
class Losses(Part):
    """``Loss``: sums of losses."""

    at: ClassVar[str] = "Loss"

    train: tuple[Term, ...] = terms(registry.LOSSES, "CELoss", "Train", extra=("weight",))
    eval: tuple[Term, ...] = terms(registry.LOSSES, "CELoss", "Eval", extra=("weight",))


@dataclass(frozen=True)
class Metrics(Part):
    """``Metric``: how good answers are."""

    at: ClassVar[str] = "Metric"

    train: tuple[Term, ...] = terms(registry.METRICS, "TopkAcc", "Train")
    eval: tuple[Term, ...] = terms(registry.METRICS, "TopkAcc", "Eval")


@dataclass(frozen=True)
class PostProcess(NamedPart):
    """``Infer.PostProcess``: what is made of scores."""

    at: ClassVar[str] = "Infer.PostProcess"
    by: ClassVar[ByName] = ByName(registry.POSTPROCESSES, "Topk")

    topk: int = key(integer(1), 5, "how many classes to name")
    class_id_map_file: str | None = key(TEXT, None, "label file, `number name` a line")
    delimiter: str | None = key(TEXT, None, "between number and name; None is a space")


@dataclass(frozen=True)
class Infer(Part):
    """``Infer``: photos without labels."""

    at: ClassVar[str] = "Infer"

    infer_imgs: str | None = key(TEXT, None, "a photo, or a folder of photos")
    infer_list: str | None = key(TEXT, None, "file with one path a line, relative to infer_imgs")
    batch_size: int = key(integer(1), 10, "photos a step")
    save_dir: str | None = key(TEXT, None, "file or folder for the results")
    transforms: Ops = entries(registry.TRANSFORMS)
    post: PostProcess = section(PostProcess, called="PostProcess")


ALL: tuple[type[Part], ...] = (
    *(Run, Amp, Arch, Teacher, Optimizer, Ema, TrainSource, UnlabelledSource, EvalSource, Losses, Metrics, Infer),
)


# ---------------------------------------------------------------------------------------------------------------------
# what several sections say together


@dataclass(frozen=True)
class Weights:
    """Which weights a configuration names for its network.

    Attributes:
        network: ``Arch.name``.
        folder: ``Global.output_dir``, where ``checkpoints: auto`` looks.
        checkpoints, pretrained_model: of ``Global``.
        published: ``Arch.pretrained``.
        use_ssld: of ``Arch``.
        others_typed: one of the others was typed, and the checkpoints were not.
    """

    network: str
    folder: str
    checkpoints: str | None
    pretrained_model: str | None
    published: bool | str
    use_ssld: bool
    others_typed: bool


@dataclass(frozen=True)
class Labels:
    """Where a configuration says the names of classes are.

    Attributes:
        file: ``Infer.PostProcess.class_id_map_file``.
        delimiter: between number and name.
        beside: the folder of the configuration.
        typed: the file was typed, so it must be there.
        names: what the post-process calls the classes, where there is no file.
    """

    file: str | None
    delimiter: str | None
    beside: Path
    typed: bool
    names: tuple[str, ...] = ()
