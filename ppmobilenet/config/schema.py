"""What may stand in a configuration, by dotted key: the classes of ``parts.py``, and PaddleClas's other keys."""

from __future__ import annotations

from ppmobilenet.config.fields import ByName, Inner, Key, Part, PartList
from ppmobilenet.config.kinds import NUMBER
from ppmobilenet.config.parts import ALL

KEYS: dict[str, Key] = {}
PARTS: dict[str, ByName] = {}
PART_LISTS: dict[str, PartList] = {}
EXTRA_KEYS = {"weight": Key(NUMBER, 1.0, "factor in the sum of the losses")}


def _enter(part: type[Part], at: str) -> None:
    if part.by:
        PARTS[at] = part.by
    for called, (_, known) in part.known().items():
        name = f"{at}.{called}"
        if isinstance(known, Inner):
            _enter(known.part, name)
        else:
            (KEYS if isinstance(known, Key) else PART_LISTS)[name] = known


for _part in ALL:
    _enter(_part, _part.at)

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
    "Optimizer.clip_grad": "nor there, where AdamW takes it and never clips; Optimizer.clip_global_norm clips",
    "Optimizer.lr.step_each_epoch": "counted from the training list",
    "Optimizer.lr.epochs": "Global.epochs says it",
    "Optimizer.lr.last_epoch": "a checkpoint says where a run stands",
    "Optimizer.lr.verbose": "steps.csv holds the rate of each step",
    "profiler_options": "PaddleClas's profiler switch is not used",
}

# PaddleClas's keys for other tasks: refused with a reason better than "unknown".
UNSUPPORTED: dict[str, str] = {
    **{f"Arch.{key}": "recognition networks of several parts" for key in ("Backbone", "Neck", "Head", "is_rec")},
    **{f"Arch.{key}": "networks of several parts" for key in ("models", "pretrained_list", "freeze_params_list")},
    **{f"Global.{key}": "recognition" for key in ("feature_normalize", "feature_binarize", "re_ranking")},
    "Global.retrieval_feature_from": "recognition",
    "Global.train_mode": "semi-supervised and metric training",
    "Global.iter_per_epoch": "semi-supervised training",
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
