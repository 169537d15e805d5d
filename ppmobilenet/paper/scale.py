"""How long large jobs take at least, on paper: from figures that were measured, and those of your own cluster.

    python -m ppmobilenet.paper.scale                            # the figures of this file
    python -m ppmobilenet.paper.scale --cores 64 --gbit 100 --gpu 1200

Each job has parts that work side by side: photos and gradients come through the network, processors decode, GPUs
compute. The slowest sets the pace. What GPUs do was not measured here: without ``--gpu`` the
table says from how many images a second on they would wait for the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import NamedTuple

from ppmobilenet.config import load_config
from ppmobilenet.config.shipped import shipped_recipes
from ppmobilenet.tables import text_table
from ppmobilenet.zoo import create_model

GPUS = 8  # of a machine
EPOCHS_21K = 80  # no recipe of ours: those of "ImageNet-21K Pretraining for the Masses" (2021)
TO_ANSWER = 100_000_000
LEFT = ("recipe", "limit", "limit 8", "limit 64", "option", "<")


class Photos(NamedTuple):
    """A set of photos: its name, how many, of how many classes."""

    name: str
    count: int
    classes: int


IMAGENET_1K, IMAGENET_21K = Photos("ImageNet-1k", 1_281_167, 1000), Photos("ImageNet-21k", 14_197_122, 21_841)


def given(value: float, what: str):
    """Return a field of :class:`Given` with what it means and where its value is from."""
    return field(default=value, metadata={"what": what})


@dataclass(frozen=True)
class Given:
    """What the tables are computed from; docs/scale.md says how each was measured."""

    decode: float = given(864.0, "photos that a core makes ready for training a second (measured)")
    answer: float = given(88.0, "photos that a core answers a second, from file to name (measured)")
    kilobytes: float = given(118.3, "thousand bytes a photo (measured)")
    cores: int = given(96, "cores of a machine with 8 GPUs, or of one that answers (assumed)")
    gbit: float = given(25.0, "network of a machine, for photos and for gradients, billion bits a second (assumed)")
    gpu: float = given(0.0, "images that a GPU trains on a second (not measured; 0: as many as come)")

    @property
    def bytes_a_second(self) -> float:
        return self.gbit * 1e9 / 8


@dataclass(frozen=True)
class Estimate:
    """A job's pace.

    Attributes:
        photos: that it works on in all, each as often as it comes.
        limits: what limits it -> photos a second of the whole cluster.
    """

    photos: float
    limits: dict[str, float]

    @property
    def slowest(self) -> str:
        return min(self.limits, key=self.limits.__getitem__)

    @property
    def pace(self) -> float:
        """Photos a second."""
        return self.limits[self.slowest]

    @property
    def hours(self) -> float:
        return self.photos / self.pace / 3600


def training(given: Given, photos: int, gpus: int, batch: int, parameters: int) -> Estimate:
    """Estimate a training.

    Args:
        given: figures.
        photos: that come in all, each as often as there are epochs.
        gpus: in all, eight a machine.
        batch: images of a GPU's step.
        parameters: whose gradients travel between machines, 4 bytes each, in a ring after each step.
    """
    machines = max(1, gpus // GPUS)
    # what a machine receives for a step: its photos, and (M-1)/M of the gradients twice
    received = batch * gpus / machines * given.kilobytes * 1000 + 2 * (machines - 1) / machines * parameters * 4
    limits = {
        "decoding": given.decode * given.cores * machines,
        "network": batch * gpus * given.bytes_a_second / received,
    }
    if given.gpu:
        limits["GPUs"] = given.gpu * gpus
    return Estimate(photos, limits)


def answering(given: Given, photos: int, machines: int) -> Estimate:
    """Estimate the answering of photos on processors."""
    return Estimate(
        photos,
        {
            "processors": given.answer * given.cores * machines,
            "network": given.bytes_a_second * machines / (given.kilobytes * 1000),
        },
    )


@cache
def recipes() -> list[dict]:
    """Return each shipped ImageNet recipe: name, family, epochs, batch, architecture and its trained parameters."""
    rows = []
    for name, path in shipped_recipes().items():
        folder, _, file = name.rpartition("/")
        if folder.startswith("ImageNet/"):
            config = load_config(path, [])
            rows.append(
                {
                    "recipe": file.removesuffix(".yaml"),
                    "family": folder.rpartition("/")[2],
                    "epochs": config.run.epochs,
                    "batch": config.train.sampler.batch_size,
                    "arch": config.arch.name,
                    "parameters": parameters_of(config.arch.name, IMAGENET_1K.classes),
                }
            )
    return rows


@cache
def parameters_of(arch: str, classes: int) -> int:
    """Return how many numbers a network learns."""
    return sum(int(p.size) for p in create_model(arch, class_num=classes).parameters() if not p.stop_gradient)


def train_rows(given: Given, data: Photos, chosen: Sequence[dict]) -> list[dict]:
    """Return a row for each recipe on a set of photos."""
    rows = []
    for recipe in chosen:
        epochs = recipe["epochs"] if data is IMAGENET_1K else EPOCHS_21K
        parameters = recipe["parameters"]
        if data is not IMAGENET_1K:
            parameters = parameters_of(recipe["arch"], data.classes)
        row = {
            "recipe": recipe["recipe"],
            "epochs": epochs,
            "TB": f"{data.count * epochs * given.kilobytes / 1e9:.0f}",
            "core-h": f"{data.count * epochs / given.decode / 3600:.0f}",
        }
        for gpus in (GPUS, 8 * GPUS):
            found = training(given, data.count * epochs, gpus, recipe["batch"], parameters)
            row |= {f"{gpus} GPUs: h": f"{found.hours:.1f}", f"limit {gpus}": found.slowest}
            row |= {f"img/s a GPU {gpus}": f"{found.pace / gpus:.0f}"}
        rows.append(row)
    return rows


def answer_rows(given: Given, machines: Sequence[int] = (1, 10, 100)) -> list[dict]:
    """Return a row for each number of machines that answer."""
    rows = []
    for number in machines:
        found = answering(given, TO_ANSWER, number)
        row = {"machines": number, "TB": f"{TO_ANSWER * given.kilobytes / 1e9:.1f}", "hours": f"{found.hours:.1f}"}
        rows.append(row | {"limit": found.slowest, "photos/s": f"{found.pace:.0f}"})
    return rows


def text(given: Given) -> str:
    """Return all tables."""
    found = recipes()
    widest = {row["family"]: row for row in sorted(found, key=lambda row: row["parameters"])}
    parts = {
        "what is given": [
            {"option": f"--{f.name}", "value": getattr(given, f.name), "<": f.metadata["what"]} for f in fields(given)
        ],
        f"{IMAGENET_1K.name}: at least": train_rows(given, IMAGENET_1K, found),
        f"{IMAGENET_21K.name}, {EPOCHS_21K} epochs, the widest network of each family: at least": train_rows(
            given, IMAGENET_21K, list(widest.values())
        ),
        f"{TO_ANSWER:,} photos to answer on processors": answer_rows(given),
    }
    return "\n\n".join(f"{title}\n\n{_table(rows)}" for title, rows in parts.items())


def _table(rows: Sequence[dict]) -> str:
    columns = {("<" if key in LEFT else "") + key.lstrip("<"): (lambda row, key=key: row[key]) for key in rows[0]}
    return text_table(rows, columns)


def main() -> None:
    """Print the tables for the figures of the command line."""
    parser = argparse.ArgumentParser(
        description="how long large jobs take at least", prog="python -m ppmobilenet.paper.scale"
    )
    for each in fields(Given):
        parser.add_argument(
            f"--{each.name}",
            type=type(each.default),
            default=each.default,
            help=f"{each.metadata['what']} (%(default)s)",
        )
    print(text(Given(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
