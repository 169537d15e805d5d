"""The table of known keys. PaddleClas's vocabulary, plus what is ours; nothing else may stand in a configuration.

Parts that a registry holds (models, transforms, losses, ...) bring their own keys: the parameters of their
constructors. A key that stands here and there is the constructor's.
"""

from __future__ import annotations

from dataclasses import dataclass

from ppmobilenet import registry
from ppmobilenet.config.kinds import (
    BOOLEAN,
    MAPPING,
    NUMBER,
    TEXT,
    Kind,
    any_of,
    integer,
    list_of,
    number,
    one_of,
)

MODES = ("Train", "Eval")
# `gpu:1` chooses a card
DEVICE = Kind(
    "cpu, gpu, gpu:N, xpu, npu, mlu",
    lambda v: (
        isinstance(v, str)
        and v.partition(":")[0] in ("cpu", "gpu", "xpu", "npu", "mlu")
        and (":" not in v or v.partition(":")[2].isdecimal())
    ),
)


@dataclass(frozen=True)
class Key:
    """One known key: what its value may be, the value where the file gives none, and what it does."""

    kind: Kind
    default: object
    help: str


# key                          what it may be                 default           what it does
_GLOBAL = {
    "checkpoints": (TEXT, None, "resume from these files (`output/latest`), or `auto`: the newest in output_dir"),
    "pretrained_model": (TEXT, None, "weights to start from, with or without the extension"),
    "output_dir": (TEXT, "./output", "folder of checkpoints and logs"),
    "device": (DEVICE, "gpu", "where to compute"),
    "epochs": (integer(1), 120, "passes over the training list"),
    "seed": (integer(0), None, "start of every random choice; None draws one and logs it"),
    "save_interval": (integer(-1), 1, "write epoch_N every so many epochs; 0 or -1 never"),
    "eval_during_train": (BOOLEAN, True, "evaluate while training, and keep the best as best_model"),
    "eval_interval": (integer(1), 1, "evaluate every so many epochs"),
    "start_eval_epoch": (integer(0), 0, "do not evaluate before this epoch"),
    "print_batch_step": (integer(1), 10, "log every so many steps"),
    "use_visualdl": (BOOLEAN, False, "write scalars, histograms and batches for VisualDL into output_dir/vdl"),
    "use_tensorboard": (BOOLEAN, False, "write the same for TensorBoard into output_dir/tensorboard"),
    "image_shape": (list_of(integer(1), 3), None, "[channels, height, width] of the exported input"),
    "image_channel": (one_of(3), 3, "channels of an image"),
    "save_inference_dir": (TEXT, "./inference", "folder of the exported model"),
    "update_freq": (integer(1), 1, "steps whose gradients are added before the weights change"),
    "class_num": (integer(0), None, "PaddleClas's old place for Arch.class_num"),
    "eval_mode": (one_of("classification"), "classification", "how to evaluate"),
    "resolution": (integer(32), None, "the paper's resolution multiplier: sets crops, resize and image_shape"),
    "to_static": (BOOLEAN, False, "compile the training graph, on devices where that is faster"),
    "cpu_kernels": (one_of("auto", "on", "off"), "auto", "compiled training operators for the CPU"),
    "on_nan": (one_of("stop", "rollback"), "stop", "rollback: once back to the last good state at half the rate"),
    "check_data": (one_of("lists", "full", "off"), "lists", "what is read of the data set before the first step"),
    "save_steps": (integer(1), None, "write `latest` every so many changes of the weights, too, not just each epoch"),
    "keep_checkpoints": (integer(1), None, "keep only the newest N epoch_* checkpoints; None keeps all"),
}
_AMP = {
    "use_amp": (BOOLEAN, False, "train in mixed precision where the device has it"),
    "use_fp16_test": (BOOLEAN, False, "evaluate in mixed precision too"),
    "scale_loss": (number(0), 1.0, "first loss scale"),
    "use_dynamic_loss_scaling": (BOOLEAN, False, "adapt the loss scale"),
    "use_promote": (BOOLEAN, False, "let an operator with mixed inputs compute in float32"),
    "level": (one_of("O1", "O2"), "O1", "O1: chosen operators in float16; O2: all but batch norm"),
}
_ARCH = {
    "class_num": (integer(0), 1000, "outputs; 0 gives the pooled features"),
    "pretrained": (any_of(BOOLEAN, TEXT), False, "True: the published weights; or a path"),
    "use_ssld": (BOOLEAN, False, "with pretrained: True, the distilled weights"),
    "freeze": (any_of(list_of(TEXT), TEXT), None, "patterns of layer names that are not trained, or `trunk`"),
    "freeze_norm": (BOOLEAN, False, "batch norm keeps the statistics it was loaded with, in all layers"),
    "cache_features": (BOOLEAN, False, "with a frozen trunk, compute its features once and keep them"),
    "infer_add_softmax": (BOOLEAN, True, "the exported model ends in softmax"),
    "use_sync_bn": (BOOLEAN, False, "batch norm statistics over all processes (GPU)"),
}
_OPTIMIZER = {
    "weight_decay": (number(0), None, "decoupled or L2 decay, as the optimizer has it"),
    "no_weight_decay_name": (TEXT, None, "words: parameters with one in their name do not decay"),
    "one_dim_param_no_weight_decay": (BOOLEAN, False, "biases and batch norm do not decay"),
    "clip_norm": (number(0), None, "clip each gradient to this L2 norm"),
    "clip_global_norm": (number(0), None, "clip all gradients together to this L2 norm"),
    "lr_mult": (MAPPING, None, "{trunk, head or a layer pattern: factor on its learning rate}"),
    "multi_precision": (BOOLEAN, False, "keep float32 weights beside float16 ones"),
}
_SCHEDULE = {
    "learning_rate": (number(0), None, "peak learning rate"),
    "warmup_epoch": (number(0), 0, "epochs of linear warm-up"),
    "warmup_start_lr": (number(0), 0.0, "where the warm-up starts"),
    "by_epoch": (BOOLEAN, False, "change once an epoch instead of each step"),
    "base_batch_size": (integer(1), None, "global batch size of the recipe: another one scales the rate in proportion"),
}
_REGULARIZER = {
    "name": (one_of("L1", "L2"), "L2", "which decay"),
    "coeff": (number(0), 0.0, "its factor"),
}
_EMA = {"decay": (number(0, 1), 0.9999, "share of the old average at each step")}
_DATASET = {
    "image_root": (TEXT, None, "folder that the list's paths are relative to"),
    "cls_label_path": (TEXT, None, "list file, `path label` a line"),
    "delimiter": (TEXT, None, "between path and label; None is a space"),
    "max_bad_samples": (integer(0), 0, "unreadable training images that are skipped before training stops"),
}
_SAMPLER = {
    "batch_size": (integer(1), 64, "images a step and process"),
    "drop_last": (BOOLEAN, False, "leave out a last short batch"),
    "shuffle": (BOOLEAN, False, "another order each epoch"),
}
_LOADER = {
    "num_workers": (integer(0), 4, "processes or threads that read images"),
    "use_shared_memory": (BOOLEAN, True, "hand batches over in shared memory"),
}
_INFER = {
    "infer_imgs": (TEXT, None, "a photo, or a folder of photos"),
    "infer_list": (TEXT, None, "file with one path a line, relative to infer_imgs"),
    "batch_size": (integer(1), 10, "photos a step"),
    "save_dir": (TEXT, None, "file or folder for the results"),
}
_POSTPROCESS = {
    "topk": (integer(1), 5, "how many classes to name"),
    "class_id_map_file": (TEXT, None, "label file, `number name` a line"),
    "delimiter": (TEXT, None, "between number and name; None is a space"),
}

KEYS: dict[str, Key] = {
    f"{section}.{name}": Key(*row)
    for section, rows in {
        "Global": _GLOBAL,
        "AMP": _AMP,
        "Arch": _ARCH,
        "Optimizer": _OPTIMIZER,
        "Optimizer.lr": _SCHEDULE,
        "Optimizer.regularizer": _REGULARIZER,
        "EMA": _EMA,
        "Infer": _INFER,
        "Infer.PostProcess": _POSTPROCESS,
        **{f"DataLoader.{mode}.dataset": _DATASET for mode in MODES},
        **{f"DataLoader.{mode}.sampler": _SAMPLER for mode in MODES},
        **{f"DataLoader.{mode}.loader": _LOADER for mode in MODES},
    }.items()
    for name, row in rows.items()
}
KEYS["DataLoader.Train.pipeline"] = Key(one_of("exact", "fast"), "fast", "fast: decode no more pixels than needed")
KEYS["DataLoader.Eval.pipeline"] = Key(one_of("exact", "fast"), "exact", "exact: the pixels PaddleClas computes")


@dataclass(frozen=True)
class Part:
    """A section ``{name: X, ...}`` whose ``name`` a registry holds and whose other keys are X's parameters."""

    registry: registry.Registry
    default: str | None = None
    supplied: frozenset = frozenset()  # parameters that the program gives, not the file
    whole: bool = False  # X's parameters are all that there is: what the table knows is another X's


PARTS: dict[str, Part] = {
    "Arch": Part(registry.MODELS),
    "Optimizer": Part(registry.OPTIMIZERS, supplied=frozenset({"learning_rate", "parameters", "model"})),
    "Optimizer.lr": Part(
        registry.SCHEDULES, "ConstLR", supplied=frozenset({"epochs", "step_each_epoch", "steps_per_epoch"})
    ),
    "Infer.PostProcess": Part(registry.POSTPROCESSES, "Topk"),
    **{
        f"DataLoader.{mode}.dataset": Part(registry.DATASETS, supplied=frozenset({"class_num", "class_names"}))
        for mode in MODES
    },
    **{f"DataLoader.{mode}.sampler": Part(registry.SAMPLERS, "DistributedBatchSampler", whole=True) for mode in MODES},
}


@dataclass(frozen=True)
class PartList:
    """A list ``[{Name: {parameter: value}}, ...]`` of things in a registry, each with ``extra`` keys of its own."""

    registry: registry.Registry
    extra: tuple[str, ...] = ()
    supplied: frozenset = frozenset({"class_num"})


PART_LISTS: dict[str, PartList] = {
    "Infer.transforms": PartList(registry.TRANSFORMS),
    **{f"DataLoader.{mode}.dataset.transform_ops": PartList(registry.TRANSFORMS) for mode in MODES},
    **{f"DataLoader.{mode}.dataset.batch_transform_ops": PartList(registry.BATCH_TRANSFORMS) for mode in MODES},
    **{f"Loss.{mode}": PartList(registry.LOSSES, extra=("weight",)) for mode in MODES},
    **{f"Metric.{mode}": PartList(registry.METRICS) for mode in MODES},
}
EXTRA_KEYS = {"weight": Key(NUMBER, 1.0, "factor in the sum of the losses")}

# PaddleClas's keys that change nothing here, and why: accepted, and reported once where they ask for something.
IGNORED: dict[str, str] = {
    "Global.use_dali": "photos are read on the CPU; DataLoader.Train.pipeline: fast is the quick way",
    "Global.uniform_output_enabled": "the output files are laid out one way",
    "Global.log_ranks": "the first process writes the log",
    "Global.print_mem_info": "GPU memory is not logged",
    "Global.infer_config_path": "export writes inference.yml by itself",
    "Global.export_for_fd": "export writes what FastDeploy reads anyway",
    "Global.pdx_model_name": "inference.yml has PaddleX's name for Arch.name",
    "Global.hpi_config_path": "there is no high-performance plug-in",
    "Global.distributed": "the launcher says how many processes there are",
    "Optimizer.lr.step_each_epoch": "counted from the training list",
    "Optimizer.lr.epochs": "Global.epochs says it",
    "Optimizer.lr.last_epoch": "a checkpoint says where a run stands",
    "Optimizer.lr.verbose": "steps.csv holds the rate of each step",
    "profiler_options": "PaddleClas's profiler switch is not used",
}

# PaddleClas's keys for other tasks: refused with a reason better than "unknown".
UNSUPPORTED: dict[str, str] = {
    **{f"Arch.{key}": "recognition networks of several parts" for key in ("Backbone", "Neck", "Head", "is_rec")},
    **{f"Arch.{key}": "distillation of several models" for key in ("models", "pretrained_list", "freeze_params_list")},
    **{f"Global.{key}": "recognition" for key in ("feature_normalize", "feature_binarize", "re_ranking")},
    "Global.retrieval_feature_from": "recognition",
    "Global.train_mode": "semi-supervised and metric training",
    "Global.use_multilabel": "several labels a photo",
    "Global.iter_per_epoch": "semi-supervised training",
    "DataLoader.UnLabelTrain": "semi-supervised training",
    "DataLoader.Eval.Query": "recognition",
    "DataLoader.Eval.Gallery": "recognition",
    "UnLabelLoss": "semi-supervised training",
    "Slim": "PaddleSlim's pruning and quantization",
}


def _sections() -> set[str]:
    paths = [*KEYS, *PARTS, *(f"{path}.x" for path in PARTS), *PART_LISTS]
    return {".".join(path.split(".")[:n]) for path in paths for n in range(1, path.count(".") + 1)}


SECTIONS: set[str] = _sections()


def children(section: str) -> list[str]:
    """Return the names that may stand in a section by this table (a part's own parameters come on top)."""
    prefix = f"{section}." if section else ""
    known = {*KEYS, *SECTIONS, *PART_LISTS}
    names = {path[len(prefix) :].split(".")[0] for path in known if path.startswith(prefix) and path != section}
    if section in PARTS:
        names.add("name")
    return sorted(names)
