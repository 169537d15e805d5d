"""Augmentation that mixes the photos of a batch, under PaddleClas's names.

A batch transform is called with (images float32 [N, C, H, W], labels [N] or [N, classes], random generator) and returns
new images and labels [N, classes] float32: the class probabilities that the loss is taken against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ppmobilenet.errors import UserError
from ppmobilenet.registry import BATCH_TRANSFORMS


def one_hot(labels: np.ndarray, class_num: int) -> np.ndarray:
    """Return float32 [N, class_num] of class numbers [N]; probabilities are returned as they are."""
    return labels if labels.ndim == 2 else np.eye(class_num, dtype=np.float32)[labels]


def _mixed(labels: np.ndarray, other: np.ndarray, part: float, class_num: int) -> np.ndarray:
    ours = one_hot(labels, class_num)
    return (part * ours + (1 - part) * ours[other]).astype(np.float32)


class _Mixing:
    def __init__(self, class_num: int, alpha: float):
        if alpha <= 0:
            raise ValueError(f"alpha {alpha!r}; allowed: above 0")
        if not class_num:
            raise ValueError("mixing photos needs Arch.class_num")
        self.class_num, self.alpha = class_num, alpha


@BATCH_TRANSFORMS.register()
class MixupOperator(_Mixing):
    """``part * image + (1 - part) * another of the batch``, one part for all, drawn from Beta(alpha, alpha).

    Zhang et al. 2018.
    """

    def __init__(self, class_num: int, alpha: float = 1.0):
        super().__init__(class_num, alpha)

    def __call__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        other, part = rng.permutation(len(images)), rng.beta(self.alpha, self.alpha)
        mixed = np.float32(part) * images + np.float32(1 - part) * images[other]
        return mixed, _mixed(labels, other, part, self.class_num)


@BATCH_TRANSFORMS.register()
class CutmixOperator(_Mixing):
    """A rectangle of each image comes from another of the batch, the same place for all (Yun et al. 2019).

    Its sides are sqrt(1 - part) of the image's, part drawn from Beta(alpha, alpha), its middle anywhere; the labels
    follow the area that it really covers.
    """

    def __init__(self, class_num: int, alpha: float = 0.2):
        super().__init__(class_num, alpha)

    def __call__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        other, part = rng.permutation(len(images)), rng.beta(self.alpha, self.alpha)
        height, width = images.shape[2:]
        cut = math.sqrt(1 - part)
        (top, bottom), (left, right) = (self._span(side, int(side * cut), rng) for side in (height, width))
        mixed = images.copy()
        mixed[:, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
        part = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, _mixed(labels, other, part, self.class_num)

    @staticmethod
    def _span(side: int, cut: int, rng: np.random.Generator) -> tuple[int, int]:
        middle = int(rng.integers(side))
        return max(0, middle - cut // 2), min(side, middle + cut // 2)


@BATCH_TRANSFORMS.register()
class OpSampler:
    """One of several batch transforms for each batch, by their ``prob``; what is missing to 1 leaves it unmixed.

    Args:
        MixupOperator: its parameters and ``prob``.
        CutmixOperator: its parameters and ``prob``.
    """

    def __init__(self, class_num: int, MixupOperator: dict | None = None, CutmixOperator: dict | None = None):
        self._choices, self._chances = [None], []
        for name, given in (("MixupOperator", MixupOperator), ("CutmixOperator", CutmixOperator)):
            if given is None:
                continue
            parameters = dict(given)
            chance = parameters.pop("prob", None)
            if chance is None or not 0 <= chance <= 1:
                raise ValueError(f"prob of {name} is {chance!r}; allowed: 0 to 1")
            self._choices.append(_build(name, parameters, class_num))
            self._chances.append(chance)
        rest = 1 - sum(self._chances)
        if rest < -1e-9:
            raise ValueError(f"the prob of the operators add up to {1 - rest:g}; allowed: at most 1")
        self._chances.insert(0, max(0.0, rest))

    def __call__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        chosen = self._choices[rng.choice(len(self._choices), p=self._chances)]
        return chosen(images, labels, rng) if chosen else (images, labels)


def _build(name: str, parameters: Mapping, class_num: int | None):
    return BATCH_TRANSFORMS[name](class_num=class_num, **parameters)


def build_batch_transforms(ops: Sequence[Mapping] | None, class_num: int | None, where: str) -> list:
    """Build ``DataLoader.Train.dataset.batch_transform_ops``.

    Raises:
        UserError: an unknown operator or parameter, with its place in the list.
    """
    built = []
    for number, entry in enumerate(ops or ()):
        ((name, parameters),) = entry.items()
        BATCH_TRANSFORMS.resolve(name, where=f"{where}.{number}")
        try:
            built.append(_build(name, parameters or {}, class_num))
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {error}", where=f"{where}.{number}") from error
    return built
