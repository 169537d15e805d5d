"""Everything that a run's folder or an exported package tells about itself, for its report."""

from __future__ import annotations

import contextlib
import csv
import json
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from paddle import nn

from ppmobilenet.config import Config, load_config
from ppmobilenet.config.parts import Arch
from ppmobilenet.config.tree import is_effective, to_yaml
from ppmobilenet.data.transforms import build_transforms
from ppmobilenet.errors import DamagedFileError, DataError, UserError
from ppmobilenet.field import backends
from ppmobilenet.field.package import Package, measured_on, open_package
from ppmobilenet.field.preprocessing import Ops, deployment_ops
from ppmobilenet.machine import usable_cores
from ppmobilenet.models.family import family_of
from ppmobilenet.paper.cost import cost_of
from ppmobilenet.photos.pictures import pictures
from ppmobilenet.registry import MODELS
from ppmobilenet.report import cam, figures
from ppmobilenet.report import page as report
from ppmobilenet.report.advice import advise
from ppmobilenet.report.predictions import FILE_NAME, LINEAR, SUSPECTS, UNUSED, Predictions
from ppmobilenet.report.several import FILE_NAME as LABELS
from ppmobilenet.report.several import LabelPredictions
from ppmobilenet.telling import duration
from ppmobilenet.weights.loading import load_weights
from ppmobilenet.zoo import create_model

LOOKED_AT = 6
FIT = "fit.yaml"  # in the folder of a fit


def report_folder(source: str | Path, output: str | Path | None = None, *, timed: bool = True) -> Path:
    """Write the report of a run's folder or of an exported package (``ppmobilenet report``).

    Args:
        source: ``Global.output_dir`` of a training or an evaluation (with the package that was exported from it, if it
            is where the config says), or the folder that an export wrote.
        output: where ``report.html`` and its figures go; default ``source`` / report, beside a package ``NAME_report``.
        timed: measure a package's backends here.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: the folder is neither.
    """
    source = Path(source).expanduser()
    if not source.is_dir():
        raise UserError(
            f"{str(source)!r} is not a folder", hint="give a run's Global.output_dir, or an exported package"
        )
    if (source / "package.json").is_file() or (source / "inference.yml").is_file():
        # nothing is written into a package: its files are listed with their checksums
        content, default = from_package(source, timed=timed), source.with_name(f"{source.resolve().name}_report")
    else:
        file = effective_config(source)
        config = load_config(file) if file else None
        content, default = from_run(source, config), source / "report"
        _add_package(content, source, config, timed)
    return report.write(content, output or default)


def report_run(folder: Path, config: Config, network: nn.Layer) -> Path:
    """Write the report of a run that has just ended; return the path of ``report.html``.

    Args:
        folder: ``Global.output_dir``.
        config: of the run.
        network: with the weights of its last evaluation.
    """
    content = from_run(folder, config, network)
    _add_package(content, folder, config, timed=True)
    return report.write(content, folder / "report")


def _add_package(content: report.Content, folder: Path, config: Config | None, timed: bool) -> None:
    package = package_of(folder, config.run.save_inference_dir, config.arch) if config else None
    _advise(content, folder, config, package)
    if package is not None:
        content.forms, content.certainty = forms(package), certainty(package.meta)
        content.latencies = _part(content, "latency", lambda: package_latencies(package)) if timed else []


def from_run(
    folder: Path,
    config: Config | None = None,
    network: nn.Layer | None = None,
    table: Predictions | LabelPredictions | None = None,
) -> report.Content:
    """Gather a run: its curves, its configuration, its last evaluation.

    Args:
        folder: ``Global.output_dir``.
        config: of the run; None: nobody knows, and the report goes without a network.
        network: with the weights of the last evaluation; otherwise it is built, and they are read.
        table: the last evaluation; otherwise what the folder holds.

    Raises:
        UserError: there is nothing of all that.
    """
    config_file = effective_config(folder)
    steps = read_curves(folder / "steps.csv")
    curves = [{**row, **_speed(steps, row["epoch"])} for row in read_curves(folder / "metrics.csv")]
    if table is None and (folder / FILE_NAME).is_file():
        table = Predictions.load(folder / FILE_NAME)
    if table is None and (folder / LABELS).is_file():
        table = LabelPredictions.load(folder / LABELS)
    if not curves and table is None:
        raise UserError(
            f"neither metrics.csv nor {FILE_NAME} is in this folder",
            where=folder,
            hint="give the Global.output_dir of a training or an evaluation, or an exported package",
        )
    kind = "labels" if isinstance(table, LabelPredictions) else "predictions"
    content = report.Content(title=folder.resolve().name, curves=curves, **{kind: table})
    content.times = run_times(curves, steps, table)
    content.linear = Predictions.load(folder / LINEAR) if table is not None and (folder / LINEAR).is_file() else None
    content.suspects, content.unused = _list_in(folder / SUSPECTS), _list_in(folder / UNUSED)
    if config is None:
        return content
    content.title = f"{config.arch.name}, {folder.resolve().name}"
    content.config = config_file.read_text(encoding="utf-8") if config_file else to_yaml(config.to_dict())
    weights = str(table.about.get("weights") or "") if table else ""
    given, network = network, network or create_model(config.arch.name, **config.arch.parameters)
    _, height, width = config.run.image_shape or (3, 224, 224)
    content.cost = _part(content, "cost", lambda: model_cost(config.arch.name, network, (height, width)))

    def maps() -> list[dict]:
        if given is None:
            load_weights(network, weights, class_num_may_differ=False)
        return activations(network, deployment_ops(config.eval.dataset.transform_ops), table)

    if weights and kind == "predictions":
        content.activations = _part(content, "where it looked", maps)
    return content


def _list_in(path: Path) -> list:
    """Return what a fit has written down for its page; nothing where there was no fit."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"not what fit writes: {error}", where=path, hint="remove it") from error


def _advise(content: report.Content, folder: Path, config: Config | None, package: Package | None) -> None:
    if content.predictions is not None:
        about = content.linear, content.suspects, content.curves, package and package.folder, folder
        again = (folder / FIT).is_file() and config and config.train and config.train.dataset.image_root
        more = f"ppmobilenet fit {shlex.quote(again)} --from {shlex.quote(str(folder))} --output ANOTHER"
        content.advice = advise(content.predictions, *about, more if again else None)


def _part(content: report.Content, what: str, compute: Callable):
    """Compute a part of the report; what cannot be had for this network is left out by name, the rest stands."""
    try:
        return compute()
    except UserError as error:
        content.left_out[what] = error.message
        return () if what != "cost" else None


def from_package(folder: Path, *, timed: bool = True) -> report.Content:
    """Gather an exported package: forms, parity, latency here, cost."""
    package = open_package(folder)
    meta = package.meta
    height, width = meta["input"]["shape"][2:]
    if meta["input"]["layout"] == "NHWC":
        height, width = meta["input"]["shape"][1:3]
    facts = [("input", f"{height}x{width} {meta['input']['dtype']}"), ("classes", str(meta["class_num"]))]
    for row in meta.get("accuracy", ()):
        where = f" on {measured_on(row)}" if measured_on(row) else ""
        of = f" of {row['samples']:,} photos" if "samples" in row else f", {row.get('source', 'measured elsewhere')}"
        same = f"; as float in {100 * row['agreement']:.1f} %" if "agreement" in row else ""
        known = ("form", "epoch", "source", "engine", "processor", "computed", "agreement", "samples", "top5")
        for figure, value in ((name, value) for name, value in row.items() if name not in known):
            named = "top-1" if figure == "top1" else figure
            facts.append((f"{named} of {row['form']}{where}", f"{100 * value:.2f} %{of}{same}"))
    facts += [(f"written by {name}", str(version)) for name, version in meta.get("versions", {}).items()]
    content = report.Content(f"{meta['name']}, package", forms=forms(package), data=facts)
    content.certainty = certainty(meta)
    if meta["name"] in MODELS:
        network = create_model(meta["name"], class_num=meta["class_num"])
        content.cost = _part(content, "cost", lambda: model_cost(meta["name"], network, (height, width)))
    if timed:
        content.latencies = _part(content, "latency", lambda: package_latencies(package))
    return content


def forms(package: Package) -> list[dict]:
    """Return a package's forms with their sizes and how far they depart from the trained model."""
    return [
        {
            "name": form["name"],
            "precision": form["precision"],
            "bytes": sum((package.folder / path).stat().st_size for path in form["files"]),
            "max_difference": form.get("max_difference"),
        }
        for form in package.meta["forms"]
    ]


def certainty(meta: Mapping) -> list[tuple[str, str]]:
    """Return what a package knows of its own certainty, as facts; empty where it knows nothing."""
    found = meta.get("decision", {})
    facts = []
    if "ece_before" in found:
        change = f"{100 * found['ece_before']:.1f} % -> {100 * found['ece_after']:.1f} %"
        facts = [
            ("temperature", f"{found['temperature']:.3f}"),
            ("calibration error", f"{change} of {found['photos']:,} validation photos"),
        ]
    if "judged_photos" in found:
        facts += [
            ("unsure below", f"{100 * found['unsure_below']:.1f} %"),
            ("false accepts", f"{found['judged_accepted']} of {found['judged_photos']:,} ({found['judged_by']})"),
            ("right answers that stay sure", f"{100 * found['right_kept']:.1f} %"),
            ("sure answers that are wrong", f"{100 * found['sure_wrong']:.1f} %"),
        ]
    return facts


def package_of(folder: Path, place: str, arch: Arch) -> Package | None:
    """Return the package exported from a run: at its place, of its network, and newer than its weights."""
    written = [path.stat().st_mtime for path in folder.glob("*.pdparams")]
    made = Path(place) / "package.json"
    if not written or not made.is_file() or made.stat().st_mtime < max(written):
        return None
    package = open_package(Path(place))
    return package if (package.meta["name"], package.meta["class_num"]) == (arch.name, arch.class_num) else None


def package_latencies(package: Package, threads: int | None = None) -> list[dict]:
    """Return the median milliseconds of each backend that runs the package here, batch 1."""
    threads = threads or usable_cores()
    runs = {
        name if precision == "fp32" else f"{name} {precision}": backends.open_backend(
            package, name, threads, precision
        )[2]
        for precision in ("fp32", "int8")
        for name in backends.usable(package, precision)
        if name != "lite"
    }
    times = backends.time_in_turn(runs, backends.sample_input(package)) if runs else {}
    return [
        {"backend": name, "threads": threads, "median_ms": 1000 * statistics.median(seconds)}
        for name, seconds in times.items()
    ]


def model_cost(name: str, model, resolution: tuple[int, int]) -> dict:
    """Return a network's cost for the report."""
    family = family_of(model)
    return {"model": name, "paper": family.paper if family else "", **cost_of(model, resolution).to_dict()}


def run_times(
    curves: Sequence[Mapping], steps: Sequence[Mapping], table: Predictions | LabelPredictions | None
) -> list[tuple[str, str]]:
    """Return the time and throughput that a run wrote down."""
    facts = []
    seconds = [row["seconds"] for row in curves if "seconds" in row]
    if seconds:
        facts += [("epochs", str(len(curves))), ("training", duration(sum(seconds)))]
        facts.append(("an epoch", duration(statistics.median(seconds))))
    rates = [row["images_per_second"] for row in steps if "images_per_second" in row]
    if rates:
        facts.append(("training, images a second", f"{statistics.median(rates):.1f}"))
    if table is not None and table.about.get("seconds"):
        spent = float(table.about["seconds"])
        facts += [("evaluation", duration(spent)), ("evaluation, images a second", f"{len(table) / spent:.1f}")]
    return facts


def activations(network: nn.Layer, ops: Ops, table: Predictions, count: int = LOOKED_AT) -> list[dict]:
    """Return class activation maps of a few photos: half of the most wrong, half of the surest right ones.

    Photos that are gone are left out.

    Args:
        network: with the weights that the table is of.
        ops: the transforms behind it, as a predictor applies them.
        table: the predictions.
        count: of photos.

    Raises:
        UserError: this network, or this size, has no such maps.
    """
    right = np.flatnonzero(table.correct)
    surest = right[np.argsort(-table.scores[right, 0], kind="stable")]
    chosen = [*figures.most_wrong(table, count // 2), *(int(i) for i in surest[: count - count // 2])]
    transform = build_transforms(ops)
    rows = []
    for i in chosen:
        try:
            tensor = np.ascontiguousarray(transform(table.paths[i]), np.float32)
        except (DataError, OSError):
            continue
        maps, _ = cam.class_activation(network, tensor[None], table.classes[i, :1])
        if maps[0].size < 4:
            raise UserError("at this size its last features are one point: there is no where")
        seen = pictures(tensor[None], ops)
        if seen is None:
            raise UserError("its input cannot be shown as a picture")
        text = f"{table.names[table.classes[i, 0]]} {100 * table.scores[i, 0]:.1f} %"
        if not table.correct[i]:
            text += f", true: {table.names[table.labels[i]]}"
        rows.append({"path": table.paths[i], "overlay": cam.overlay(seen[0], maps[0]), "text": text})
    return rows


def effective_config(folder: Path) -> Path | None:
    """Return the configuration that a training wrote into its folder, if there was one."""
    return next((path for path in sorted(folder.glob("*.yaml")) if is_effective(path)), None)


def _speed(steps: Sequence[Mapping], epoch: float) -> dict[str, float]:
    rates = [row["images_per_second"] for row in steps if row.get("epoch") == epoch and "images_per_second" in row]
    return {"images_per_second": statistics.median(rates)} if rates else {}


def read_curves(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics CSV, cells that are no numbers left out; none where there is no file."""
    rows = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows.append({})
                for key, text in row.items():
                    with contextlib.suppress(TypeError, ValueError):
                        rows[-1][key] = float(text)
    return rows
