"""A training or an evaluation with its report at the end: what the commands call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from paddle import nn

from ppmobilenet import telling
from ppmobilenet.config import Config
from ppmobilenet.data.class_names import class_names
from ppmobilenet.errors import UserError
from ppmobilenet.report import gather
from ppmobilenet.report import page as report
from ppmobilenet.report.predictions import FILE_NAME, Collector, Predictions
from ppmobilenet.report.several import FILE_NAME as LABELS
from ppmobilenet.report.several import LabelCollector, LabelPredictions
from ppmobilenet.telling import log
from ppmobilenet.training.evaluator import Ready, ready, tell
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
    folder = Path(config.run.output_dir)

    shown: list[nn.Layer] = []  # by the first process: the network that the report is of

    def look_again(best: Callable[[], Ready]) -> None:
        try:
            trained = best()
            if trained.evaluator is not None:
                found, table = predict(trained, config)
                tell(found)
                _save(table, folder)
            shown.append(trained.model)
        except UserError as error:
            # the training is done and saved: what its report lacks is no reason to fail it
            log.warning("no report: %s", error)

    result = train(config, random_init=random_init, then=look_again)
    if shown:
        _write(lambda: gather.report_run(folder, config, shown[0]))
    return result


def _write(page: Callable[[], Path]) -> None:
    """Write a report and say where; what it lacks is no reason to fail what it is about."""
    try:
        with telling.aloud(telling.NOWHERE):  # the last line that an evaluation prints is its result
            written = page()
        telling.tell(f"report: {written}")
    except UserError as error:
        log.warning("no report: %s", error)


def evaluate_and_report(config: Config, *, random_init: bool = False) -> dict[str, float]:
    """Evaluate and write ``output_dir/report/report.html``; with several processes only evaluate.

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        random_init: evaluate without trained weights.

    Returns:
        What :func:`ppmobilenet.evaluate` returns.
    """
    with ready(config, random_init) as found:
        if found.evaluator.world > 1:  # none of the processes has every photo
            result = found.evaluator(found.network)
            tell(result)
            return result
        result, table = predict(found, config)
        tell(result)
    folder = own_folder(Path(config.run.output_dir), str(table.about["weights"]))
    _save(table, folder)
    _write(lambda: report.write(gather.from_run(folder, config, found.model, table), folder / "report"))
    return result


def _save(table: Predictions | LabelPredictions, folder: Path) -> None:
    """Write the table of an evaluation; there is one, of one kind."""
    kept, gone = (FILE_NAME, LABELS) if isinstance(table, Predictions) else (LABELS, FILE_NAME)
    table.save(folder / kept)
    (folder / gone).unlink(missing_ok=True)


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


def predict(found: Ready, config: Config) -> tuple[dict[str, float], Predictions | LabelPredictions]:
    """Evaluate; return the result and the table of predictions."""
    dataset = found.evaluator.loader.dataset
    try:
        names = dataset.class_names or []
        if len(names) != dataset.class_num:
            names = class_names(config.labels, found.lists, dataset.class_num)
    except UserError:  # a list of other classes: it is what an export would refuse, an evaluation needs no names
        names = [f"class {number}" for number in range(dataset.class_num)]
    several = found.evaluator.several
    collector = LabelCollector(names, config.decision["thresholds"]) if several else Collector(names)
    began = time.monotonic()
    result = found.evaluator(found.network, collector.add)
    seconds = round(time.monotonic() - began, 3)
    paths = [dataset.samples.path(i) for i in range(len(dataset))]
    return result, collector.finish(paths, weights=str(found.start.file()) if found.start else "", seconds=seconds)
