"""Configurations of other programs: names that mean something of ours, and forms that are another kind of file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import NamedTuple

from ppmobilenet.config.reading import Document
from ppmobilenet.errors import UserError
from ppmobilenet.registry import MODELS

# PaddleX's data set of `path label` lists is the one that PaddleClas calls ImageNetDataset
DATASETS = {"ClsDataset": "ImageNetDataset"}


def translate_names(document: Document) -> list[str]:
    """Put our name where PaddleX's stands for the same network or data set. Returns notes for the log."""
    notes = []
    places = [
        ("Arch", "name"),
        ("Teacher", "name"),
        *(("DataLoader", mode, "dataset", "name") for mode in ("Train", "Eval")),
    ]
    for path in places:
        given = document.get(path)
        if not isinstance(given, str):
            continue
        own = MODELS.own_name(given) if path[0] in ("Arch", "Teacher") else DATASETS.get(given, given)
        if own != given:
            place = document.where(path)
            notes.append(f"{place}: {given} is PaddleX's name of {own}")
            document.put(path, own, place)
    return notes


# PaddleClas's losses between layers that bring trained layers of their own
WITH_LAYERS = ("AFDLoss", "DistillationPairLoss", "MGDLoss", "PEFDLoss")


def refuse_unserved(document: Document, source: str) -> None:
    """Say what is not done here of PaddleClas's own tasks, and which command does the job.

    Args:
        document: with the overrides in it.
        source: the file, as it was named.

    Raises:
        UserError: recognition by features, PaddleSlim's pruning or quantization, losses that train layers.
    """
    arch, slim = document.get(("Arch",)), document.get(("Slim",))
    given = shlex.quote(source)
    if isinstance(arch, dict) and arch.get("name") == "RecModel":
        backbone = document.get(("Arch", "Backbone", "name"))
        name = MODELS.own_name(str(backbone))
        known = name if name in MODELS else next(iter(MODELS))
        classes = document.get(("Arch", "Head", "class_num")) or "..."
        raise UserError(
            f"Arch.name is RecModel, recognition by comparing features ({backbone} and what follows it): its losses, "
            "its gallery and its search are not done here",
            where=document.where(("Arch", "name")),
            allowed="classifiers: " + ", ".join(MODELS),
            hint="the same network as a classifier of the same photos: ppmobilenet train -c "
            f"configs/ImageNet/{known.partition('_')[0]}/{known}.yaml -o Arch.class_num={classes}; "
            f"create_model({known!r}, class_num=0) gives the features of a photo",
        )
    if isinstance(slim, dict) and slim.get("prune"):
        name = arch.get("name") if isinstance(arch, dict) else None
        raise UserError(
            "Slim.prune takes filters out of a network by PaddleSlim, which is not done here",
            where=document.where(("Slim", "prune")),
            hint="a narrower network of the family that learns from the full one: ppmobilenet train -c RECIPE "
            f"-o Teacher.name={name} -o Teacher.pretrained=FILE -o Loss.Train=[DistillationKLDivLoss] (RECIPE: "
            "`ppmobilenet choose` lists them with their cost); or all of it: -o Slim=null",
        )
    if isinstance(slim, dict) and slim.get("quant"):
        raise UserError(
            "Slim.quant is quantization-aware training by PaddleSlim; here it is a command of its own, after training",
            where=document.where(("Slim", "quant")),
            hint=f"ppmobilenet train -c {given} -o Slim=null, then ppmobilenet quantize -c RUN --method qat (or from "
            f"weights that there are: ppmobilenet quantize -c {given} -o Slim=null -o Global.pretrained_model=FILE "
            "--method qat)",
        )
    _refuse_losses_with_layers(document)


def _refuse_losses_with_layers(document: Document) -> None:
    listed = document.get(("Loss", "Train"))
    for i, entry in enumerate(listed if isinstance(listed, list) else ()):
        name = entry if isinstance(entry, str) else next(iter(entry), None) if isinstance(entry, dict) else None
        if name in WITH_LAYERS:
            raise UserError(
                f"Loss.Train.{i} is {name}, which trains layers of its own between those of teacher and student; that "
                "is not done here",
                where=document.where(("Loss", "Train", i)),
                hint="DistillationRKDLoss takes layers of any two widths (student_keepkeys, teacher_keepkeys), "
                "DistillationDistanceLoss those of equal shape (key)",
            )


class _Form(NamedTuple):
    """A kind of file that is no configuration of ours, and how what it says is said here.

    Attributes:
        name: what it is.
        sections: keys at the top of which it has two, or one that is its own: no file of ours has any of them.
        model: where it names the network.
        options: key of ours -> where it gives the value; a text with {} is filled with it.
    """

    name: str
    sections: frozenset[str]
    model: tuple[str, ...]
    options: Mapping[str, tuple[tuple[str, ...], str]]


_LISTS = {
    f"DataLoader.{mode}.dataset.{key}": ((section, theirs), "{}")
    for mode, section in (("Train", "TRAIN"), ("Eval", "VALID"))
    for key, theirs in (("image_root", "data_dir"), ("cls_label_path", "file_list"))
}
FORMS = (
    _Form(
        "a PaddleX 3 module configuration",
        frozenset({"CheckDataset", "Train", "Evaluate", "Export", "Predict"}),
        ("Global", "model"),
        {
            "Arch.class_num": (("Train", "num_classes"), "{}"),
            "DataLoader.Train.dataset.image_root": (("Global", "dataset_dir"), "{}"),
            "DataLoader.Train.dataset.cls_label_path": (("Global", "dataset_dir"), "{}/train.txt"),
            "DataLoader.Eval.dataset.image_root": (("Global", "dataset_dir"), "{}"),
            "DataLoader.Eval.dataset.cls_label_path": (("Global", "dataset_dir"), "{}/val.txt"),
            "Infer.PostProcess.class_id_map_file": (("Global", "dataset_dir"), "{}/label.txt"),
            "Global.output_dir": (("Global", "output"), "{}"),
            "Global.epochs": (("Train", "epochs_iters"), "{}"),
            "DataLoader.Train.sampler.batch_size": (("Train", "batch_size"), "{}"),
            "Optimizer.lr.learning_rate": (("Train", "learning_rate"), "{}"),
            "Optimizer.lr.warmup_epoch": (("Train", "warmup_steps"), "{}"),
            "Global.pretrained_model": (("Train", "pretrain_weight_path"), "{}"),
            "Global.checkpoints": (("Train", "resume_path"), "{}"),
        },
    ),
    _Form(
        "a configuration of PaddleClas 2.0 or older",
        frozenset({"ARCHITECTURE", "LEARNING_RATE", "OPTIMIZER", "TRAIN", "VALID"}),
        ("ARCHITECTURE", "name"),
        {
            "Arch.class_num": (("classes_num",), "{}"),
            **_LISTS,
            "Global.output_dir": (("model_save_dir",), "{}"),
            "Global.epochs": (("epochs",), "{}"),
            # its batch size is that of all cards together
            "DataLoader.Train.sampler.batch_size": (("TRAIN", "batch_size"), "{}"),
            "Optimizer.lr.learning_rate": (("LEARNING_RATE", "params", "lr"), "{}"),
            "Optimizer.lr.warmup_epoch": (("LEARNING_RATE", "params", "warmup_epoch"), "{}"),
            "Optimizer.regularizer.coeff": (("OPTIMIZER", "regularizer", "factor"), "{}"),
            "Global.pretrained_model": (("pretrained_model",), "{}"),
            "Global.checkpoints": (("checkpoints",), "{}"),
        },
    ),
)


def refuse_foreign(document: Document, source: str) -> None:
    """Say what a file is that was written for another program, and what to type instead.

    Raises:
        UserError: it is one of :data:`FORMS`, of PaddleSlim's automatic compression, or the ``inference.yml`` of an
            exported package.
    """
    tree = document.tree
    if {"PreProcess", "PostProcess"} <= tree.keys():
        raise UserError(
            "this is the inference.yml of an exported package, not the configuration of a training",
            where=source,
            hint="give the folder that it lies in: ppmobilenet infer -m FOLDER -i PHOTOS",
        )
    compression = sorted({"QuantAware", "QuantPost", "Quantization", "TrainConfig"} & tree.keys())
    if compression:
        raise UserError(
            f"this is a configuration of PaddleSlim's automatic compression ({', '.join(compression)}), which trains "
            "an exported model; that is not done here",
            where=source,
            hint="int8 is made of a run that was trained here: ppmobilenet quantize -c RUN --method qat (ptq: without "
            "training); or of weights: ppmobilenet quantize -c configs/ImageNet/... -o Global.pretrained_model=FILE "
            "--method qat",
        )
    for form in FORMS:
        if not form.sections & tree.keys() or document.get(("Arch",)) or document.get(("DataLoader",)):
            continue
        given = document.get(form.model)
        model = MODELS.own_name(given) if isinstance(given, str) else None
        if model not in MODELS:
            found = f", of {str(given)[:60]!r}" if given else ""
            raise UserError(
                f"this is {form.name}{found}, a form that is not read here",
                where=source,
                allowed="networks: " + ", ".join(MODELS),
                hint="start from one of the recipes in configs/, and set what is yours with -o",
            )
        options = []
        for key, (path, text) in form.options.items():
            value = document.get(path)
            if value not in (None, "", False) and not isinstance(value, (dict, list)):
                options.append("-o " + shlex.quote(f"{key}={text.format(value)}"))
        family = model.partition("_")[0]
        recipe = f"configs/ImageNet/{family}/{model}.yaml"
        raise UserError(
            f"this is {form.name} of {given}, a form that is not read here; this says the same:",
            where=source,
            hint=" \\\n    ".join([f"ppmobilenet train -c {recipe}", *options]),
        )
