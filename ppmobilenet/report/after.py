"""A training or an evaluation with its report at the end: what the commands call."""

from __future__ import annotations

import time
from pathlib import Path

import paddle

from ppmobilenet import telling
from ppmobilenet.config import Config, load_config
from ppmobilenet.data import classes
from ppmobilenet.data.build import build_dataset
from ppmobilenet.errors import UserError
from ppmobilenet.report import gather
from ppmobilenet.report import page as report
from ppmobilenet.report.predictions import FILE_NAME, Collector, Predictions
from ppmobilenet.telling import log
from ppmobilenet.training.evaluator import evaluate
from ppmobilenet.training.start import require_start
from ppmobilenet.training.trainer import train

APART = "evaluation"  # folder of an evaluation within another run's


def train_and_report(config: Config, *, random_init: bool = False) -> dict[str, float]:
    """Train, then evaluate the best weights once more and write ``output_dir/report/report.html``.

    With several processes the report holds the curves and no evaluation.

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        random_init: see :func:`ppmobilenet.train`.

    Returns:
        What :func:`ppmobilenet.train` returns.
    """
    result = train(config, random_init=random_init)
    folder = Path(config.get("Global.output_dir"))
    if paddle.distributed.get_rank():
        return result
    try:
        if "Eval" in config["DataLoader"] and paddle.distributed.get_world_size() == 1:
            table = _evaluate(load_config(folder))[1]
            table.save(folder / FILE_NAME)
        with telling.aloud(telling.NOWHERE):  # the last line that an evaluation prints is its result
            page = gather.report_folder(folder)
        telling.tell(f"report: {page}")
    except UserError as error:
        # the training is done and saved: what its report lacks is no reason to fail it
        log.warning("no report: %s", error)
    return result


def evaluate_and_report(config: Config, *, random_init: bool = False) -> dict[str, float]:
    """Evaluate and write ``output_dir/report/report.html``; with several processes only evaluate.

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        random_init: evaluate without trained weights.

    Returns:
        What :func:`ppmobilenet.evaluate` returns.
    """
    result, table = _evaluate(config, random_init)
    if table is None:
        return result
    folder = own_folder(Path(config.get("Global.output_dir")), str(table.about["weights"]))
    table.save(folder / FILE_NAME)
    try:
        with telling.aloud(telling.NOWHERE):  # the last line that an evaluation prints is its result
            page = report.write(gather.from_run(folder, config), folder / "report")
        telling.tell(f"report: {page}")
    except UserError as error:
        log.warning("no report: %s", error)
    return result


def own_folder(folder: Path, weights: str) -> Path:
    """Return where the evaluation of some weights goes: not among the files of a training that did not make them.

    Args:
        folder: ``Global.output_dir``.
        weights: the file, or nothing for random ones.
    """
    if gather.effective_config(folder) is None:
        return folder
    if weights and folder.resolve() in Path(weights).resolve().parents:
        return folder
    log.warning("%s holds a run of its own, of other weights: this evaluation goes to %s", folder, folder / APART)
    return folder / APART


def class_names(config: Config, dataset) -> list[str]:
    """Return one name a class: the folders', else the label file's, else ``class N``."""
    count = int(config.get("Arch.class_num"))
    if dataset.class_names and len(dataset.class_names) == count:
        return list(dataset.class_names)
    try:
        return classes.class_names(config, count)
    except UserError:  # a list of other classes: it is what an export would refuse, an evaluation needs no names
        return [f"class {number}" for number in range(count)]


def _evaluate(config: Config, random_init: bool = False) -> tuple[dict[str, float], Predictions | None]:
    """Evaluate; return the result and the table of predictions, None with several processes: none has every photo."""
    start = require_start(config, random_init)  # before the list is read
    dataset = build_dataset(config, "Eval")
    collector = Collector(class_names(config, dataset))
    began = time.monotonic()
    result = evaluate(config, random_init=random_init, collect=collector.add)
    seconds = time.monotonic() - began
    if paddle.distributed.get_world_size() > 1:
        return result, None
    paths = [dataset.samples.path(i) for i in range(len(dataset))]
    weights = str(start.file()) if start else ""
    return result, collector.finish(paths, weights=weights, seconds=round(seconds, 3))
