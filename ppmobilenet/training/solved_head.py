"""A classifier that is solved for, not trained: regularised logistic regression on the features of a frozen trunk.

The problem is convex. It has one solution, which needs neither a learning rate nor a seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ppmobilenet.data.loader import Loader
from ppmobilenet.errors import UserError
from ppmobilenet.models.family import classifier_of
from ppmobilenet.telling import log
from ppmobilenet.training.feature_cache import features_of

BATCH = 256
UNSEEN = -20.0  # logit of a class without a photo, below those of the others


class Linear(NamedTuple):
    """A linear classifier: ``features @ weight + bias`` are logits; weight [D, K], bias [K]."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return [N, K] of features [N, D]."""
        return features @ self.weight + self.bias


def solve(features: np.ndarray, labels: np.ndarray, classes: int, penalty: float) -> Linear:
    """Return the linear classifier of least mean cross entropy plus ``penalty / 2`` times its squared weights.

    Weights are those of standardised features, so that the penalty is the same for each; the result takes the
    features as they are. The penalty does not depend on the number of photos.

    Args:
        features: [N, D].
        labels: [N]; of one class alone that is the answer.
        classes: K; one without a photo is never the answer.
        penalty: above 0.
    """
    found = np.unique(labels)
    if len(found) == 1:  # a fold that lacks the only photo of the other class
        bias = np.where(np.arange(classes) == found[0], 0, UNSEEN)
        return Linear(np.zeros((features.shape[1], classes), np.float32), bias.astype(np.float32))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 1e-6, deviation, 1.0)
    regression = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-4, max_iter=1000)
    # one thread: on two these small products took as long on an idle machine, and seven times as long on a busy one
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a thousand steps are near enough
        regression.fit(((features - mean) / scale).astype(np.float32), labels)
    rows, offsets = regression.coef_, regression.intercept_
    if len(rows) == 1:  # two classes: one row, the second against the first
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight, bias = np.zeros((features.shape[1], classes)), np.full(classes, UNSEEN)
    weight[:, regression.classes_] = (rows / scale).T
    bias[regression.classes_] = offsets - (rows / scale) @ mean
    return Linear(weight.astype(np.float32), bias.astype(np.float32))


def classifier_inputs(model: nn.Layer, features: np.ndarray) -> np.ndarray:
    """Return what a network's classifier gets in evaluation, [N, D], of the features in front of its head."""
    seen: list[np.ndarray] = []
    hook = _classifier(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    modes = [(layer, layer.training) for layer in (model, *model.sublayers())]
    model.eval()
    try:
        with paddle.no_grad():
            for start in range(0, len(features), BATCH):
                model.head(paddle.to_tensor(np.ascontiguousarray(features[start : start + BATCH])))
    finally:
        hook.remove()
        for layer, training in modes:
            layer.training = training
    return np.concatenate(seen)


def listed_inputs(
    model: nn.Layer, loader: Loader, views: Sequence[Mapping], name: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the classifier gets for each readable photo of a list, [n, D]; and which are readable, bool [N].

    Args:
        model: on its kernels if it has any.
        loader: of the list.
        views: transforms without chance, those of evaluation.
        name: start of the file's name that keeps the features, for the next time.
    """
    features, readable = features_of(model, len(model.units()), loader, views, name)
    return classifier_inputs(model, features[readable]), readable


def set_classifier(model: nn.Layer, linear: Linear) -> None:
    """Give a network's classifier these weights."""
    layer = _classifier(model)
    layer.weight.set_value(linear.weight)
    layer.bias.set_value(linear.bias)


def solve_head(model: nn.Layer, loader: Loader, views: Sequence[Mapping], folder: Path, penalty: float) -> None:
    """Begin a training with the best classifier of the features as they are (``Arch.solve_head``).

    Args:
        model: with the weights that it starts from, on its kernels if it has any.
        loader: of the training list.
        views: transforms of evaluation.
        folder: keeps the features.
        penalty: see :func:`solve`.

    Raises:
        UserError: photos have several labels.
    """
    if loader.dataset.samples.several:
        raise UserError(
            "one class a photo is solved for, and these photos have several labels",
            where="Arch.solve_head",
            hint="leave it out: the classifier is trained then",
        )
    inputs, readable = listed_inputs(model, loader, views, folder / "features-train")
    labels = loader.dataset.samples.labels[readable]
    linear = solve(inputs, labels, model.class_num, penalty)
    set_classifier(model, linear)
    share = 100 * float((linear.logits(inputs).argmax(axis=1) == labels).mean())
    log.info("solve_head: %d photos, penalty %g, %.1f %% of them right", len(labels), penalty, share)


def _classifier(model: nn.Layer) -> nn.Linear:
    return dict(model.named_sublayers())[classifier_of(model)]
