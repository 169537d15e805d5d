"""Decisions with their reasons, and the one configuration that holds them all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppmobilenet import files
from ppmobilenet.config import Config, load_config
from ppmobilenet.config.tree import to_yaml
from ppmobilenet.fit.network import RECIPE, Candidate
from ppmobilenet.fit.photos import Photos

FILE_NAME = "fit.yaml"
TRAIN, EVAL, INFER = "DataLoader.Train.dataset", "DataLoader.Eval.dataset", "Infer.transforms"


class Decision(NamedTuple):
    """One value of the configuration, by its dotted key, and why it is so."""

    key: str
    value: object
    why: str


def configuration(decisions: Iterable[Decision]) -> Config:
    """Return the recipe with the decisions in it; later ones count."""
    return load_config(RECIPE, overrides(decisions))


def write(decisions: Sequence[Decision], path: Path) -> None:
    """Write the configuration with the reasons in front."""
    config = configuration(decisions)
    lines = [
        "What ppmobilenet fit decided. The same again, bit for bit:",
        f"  ppmobilenet train -c {path} -o Global.output_dir=ANOTHER",
        f"The recipe is {RECIPE}; else:",
        *(f"  {d.key}: {d.value}: {d.why}" for d in decisions),
    ]
    head = "".join(f"# {''.join(c if c.isprintable() else ' ' for c in line)}\n" for line in lines)
    files.write_text(path, head + to_yaml(config.to_dict()))


def of_photos(photos: Photos, folder: Path, seed: int) -> list[Decision]:
    """Decide what follows from the photos alone."""
    classes, train, val = len(photos.names), str(photos.train), str(photos.val)
    best = min(5, classes)
    made = [
        Decision("Arch.class_num", classes, "classes that were found"),
        Decision("Global.output_dir", str(folder), "--output"),
        Decision("Global.save_inference_dir", str(folder / "package"), "beside the run"),
        Decision("Global.seed", seed, "--seed"),
        Decision("Global.save_interval", -1, "the last epoch is kept"),
        Decision("Global.print_batch_step", 1000, "a line an epoch"),
        Decision(f"{TRAIN}.image_root", str(photos.root), "the folder"),
        Decision(f"{EVAL}.image_root", str(photos.root), "the folder"),
        Decision(f"{TRAIN}.cls_label_path", train, "teaches"),
        Decision(f"{EVAL}.cls_label_path", val, "held out: it judges once, at the end, and decides nothing"),
        Decision("Infer.infer_imgs", str(photos.root), "the folder"),
        Decision("Infer.PostProcess.class_id_map_file", photos.labels and str(photos.labels), "names of the classes"),
        Decision("Infer.PostProcess.topk", best, "no more than there are classes"),
    ]
    learned = len(photos.samples("train"))
    made += [
        Decision("DataLoader.Train.sampler.batch_size", max(8, min(32, learned // 8)), "eight steps an epoch or more"),
        Decision("Optimizer.lr.base_batch_size", 32, "what the rate was found with"),
    ]
    shown = [1, best] if best > 2 else [1]
    return [*made, *(Decision(f"Metric.{side}.0.TopkAcc.topk", shown, "the same") for side in ("Train", "Eval"))]


def of_network(candidate: Candidate, why: str) -> list[Decision]:
    """Decide what follows from the network."""
    made = [
        Decision("Arch.name", candidate.name, why),
        Decision("Global.pretrained_model", str(candidate.weights), candidate.why),
        *(Decision(f"Arch.{key}", value, "of these weights") for key, value in candidate.arguments.items()),
    ]
    usual, why = Candidate, "how these weights see photos best"
    if candidate.side != usual.side:
        made += of_view(candidate.side, why)
    if (candidate.mean, candidate.std) != (usual.mean, usual.std):
        for ops in (f"{TRAIN}.transform_ops", f"{EVAL}.transform_ops", INFER):
            places = ((f"{ops}.3.NormalizeImage.{key}", list(getattr(candidate, key))) for key in ("mean", "std"))
            made += [Decision(key, value, why) for key, value in places]
    return made


def of_view(side: tuple[int, int], why: str) -> list[Decision]:
    """Decide how photos are shown to the network that answers.

    Args:
        side: of its image, and of the photo's short side that this is cut from.
        why: so.
    """
    crop, short = side
    places = [("Global.image_shape", [3, crop, crop])]
    for ops in (f"{EVAL}.transform_ops", INFER):
        places += [(f"{ops}.1.ResizeImage.resize_short", short), (f"{ops}.2.CropImage.size", crop)]
    return [Decision(key, value, why) for key, value in places]


def view_of(config: Config) -> tuple[int, int]:
    """Return how a configuration shows photos to the network that answers, as :func:`of_view` takes it."""
    crop = (config.run.image_shape or (3, 224, 224))[1]
    resized = [op["ResizeImage"]["resize_short"] for op in config.eval.dataset.transform_ops if "ResizeImage" in op]
    return crop, resized[0] if resized else crop


def views(config: Config) -> list[tuple[int, int]]:
    """Return the ways of showing photos to a fine-tuned network that are worth a look, the first as before it.

    Things look larger in random crops than in the photo that is answered; where the training has small crops as well,
    the network answers best at little more than their side (Touvron et al. 2019).
    """
    usual = view_of(config)
    trained = next(op["RandCropImage"]["size"] for op in config.train.dataset.transform_ops if "RandCropImage" in op)
    whole = min(usual[0], round(LARGER * trained / 32) * 32)
    return list(dict.fromkeys([usual, (whole, whole)]))


# how to fine-tune, all but how long: MobileNetV3 small at 224 pixels, eight epochs, had 82.9 % right of 300 photos of
# clothes held out of 900, three times (plain from a random classifier 82.1 %, which is within noise; the linear
# classifier 80.1 %); MobileNetV2, at rate 0.004, 83.2 to 83.8 % (linear 79.6 %)
FINE_TUNING = (
    Decision("Optimizer.lr.learning_rate", 0.005, "for a classifier that begins solved"),
    Decision("Optimizer.lr_mult.head", 2, "the classifier begins solved"),
)
# share of the weights that answer: what the training began with. Three trainings of MobileNetV2 by 600 photos of
# clothes, 8 passes at 160 pixels, had 84.6 % of the other 300 right with it, and 83.3 % with the last epoch's average
OF_THE_START = 0.3
# side of the whole photo that is answered, of that of the crops that were trained on
LARGER = 1.2


def of_average(steps: int) -> Decision:
    """Decide that the average over the whole training answers: what was learned is then added to what was known.

    Args:
        steps: of the training.
    """
    why = f"the average over the training answers, {100 * OF_THE_START:.0f} % of it is the start (Wortsman et al. 2022)"
    return Decision("EMA.decay", round(OF_THE_START ** (1 / steps), 8), why)


def of_crops(config: Config, share: float) -> list[Decision]:
    """Decide to train on crops of that share of the recipe's side; photos are answered at the size they were."""
    if share == 1:
        return []
    ops = config.train.dataset.transform_ops
    place, side = next((i, op["RandCropImage"]["size"]) for i, op in enumerate(ops) if "RandCropImage" in op)
    why = f"quicker than {side}, and as good where photos are answered at that or more (Touvron et al. 2019)"
    return [Decision(f"{TRAIN}.transform_ops.{place}.RandCropImage.size", round(share * side / 32) * 32, why)]


def going_on(folder: Path) -> list[Decision]:
    """Decide to go on with the training in a folder, if one has begun there."""
    begun = any(folder.glob("*.manifest.json"))
    return [Decision("Global.checkpoints", "auto", "it has begun")] if begun else []


def overrides(decisions: Iterable[Decision]) -> list[str]:
    """Return decisions as ``-o`` takes them."""
    return [f"{d.key}={_typed(d.value)}" for d in decisions]


def _typed(value: object) -> str:
    """Return a value as ``-o`` takes it."""
    return str(value) if isinstance(value, (bool, int, float)) else json.dumps(value, ensure_ascii=False)
