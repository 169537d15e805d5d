"""The one road from a config and its trained weights to a package for the field, with int8 forms or without.

What the config says (``from_config``) -> which layers become int8, calibrated or fine-tuned (``int8_plan``, ``qat``) ->
the package (``making``), its forms written from one table (``forms``) and proven -> what int8 costs
(``int8_accuracy``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from paddle import nn

from ppmobilenet.config import Config
from ppmobilenet.data.build import build_loader
from ppmobilenet.errors import UserError
from ppmobilenet.field.package import open_package
from ppmobilenet.telling import aloud, log
from ppmobilenet.training.start import model_with_weights
from ppmobilenet.workshop.certainty import Certainty
from ppmobilenet.workshop.forms import PADDLE_FORMS, parse_forms
from ppmobilenet.workshop.from_config import (
    calibration_tensors,
    listed_photos,
    measured_decision,
    package_spec,
    trained_accuracy,
)
from ppmobilenet.workshop.int8_accuracy import Int8Report, form_accuracies
from ppmobilenet.workshop.int8_plan import Int8Settings, Plan, layers_meant, plan_layers
from ppmobilenet.workshop.making import make_package
from ppmobilenet.workshop.qat import fine_tune

INT8_FORMS = ("pdmodel", "onnx", "lite-armv8")


@aloud()
def export(
    config: Config,
    to: str | Sequence[str] = PADDLE_FORMS,
    output: str | Path | None = None,
    *,
    random_init: bool = False,
    softmax_inside: bool | None = None,
    embed_preprocess: str | None = None,
    int8: bool = False,
    with_board: bool = False,
    certainty: Certainty | None = None,
) -> Path:
    """Write the package that a config describes (``ppmobilenet export``).

    Args:
        config: as :func:`ppmobilenet.load_config` gives it.
        to: forms, as a list or a comma list: ``"inference"``, ``"pdmodel"``, ``"onnx"``, ``"lite-armv8"``,
            ``"lite-armv7"``, ``"lite-x86"``, ``"lite-armv8-fp16"``; or ``"all"`` (all but the last).
        output: the folder; default ``Global.save_inference_dir``.
        random_init: export without weights.
        softmax_inside: default ``Arch.infer_add_softmax``, and that defaults to true.
        embed_preprocess: ``"NCHW"`` or ``"NHWC"``: uint8 input, normalisation in the graph.
        int8: write the int8 twins of the forms too, quantized after training on photos of the training list
            (:func:`quantize` can do more, and reports accuracy).
        with_board: put the board program's sources into the package too (``board``); needs a ``lite-...`` form.
        certainty: measure a temperature, and when to be ``unsure``, on the validation photos; None: neither.

    Returns:
        The folder.
    """
    to = parse_forms(to, with_board)  # a mistyped form is said before weights are read
    network = model_with_weights(config, random_init)
    spec = package_spec(config, to, with_board=with_board)
    spec.embed_preprocess = embed_preprocess
    if softmax_inside is not None:
        spec.softmax_inside = softmax_inside
    if int8:
        if embed_preprocess:
            raise UserError(
                "int8 forms take normalised input", where="--embed-preprocess", hint="leave one of them out"
            )
        spec.int8 = plan_int8(config, network, Int8Settings())
    if certainty:
        spec.decision = {**(spec.decision or {}), **measured_decision(config, network, certainty)}
    return make_package(network, spec, _folder(config, output), lambda _written: trained_accuracy(config))


@aloud("stderr")
def quantize(
    config: Config,
    settings: Int8Settings,
    output: str | Path | None = None,
    to: str | Sequence[str] = INT8_FORMS,
    limit: int | None = None,
    with_board: bool = False,
    certainty: Certainty | None = None,
) -> Int8Report:
    """Write a package with float and int8 forms, and report both accuracies on the validation list.

    Args:
        config: as :func:`ppmobilenet.load_config` gives it, with ``Global.pretrained_model``.
        settings: how the network becomes int8.
        output: the folder; default ``Global.save_inference_dir``.
        to: forms; each gets its int8 twin where there is one.
        limit: validation photos at most; default all.
        with_board: put the board program's sources into the package too, as ``board``.
        certainty: as for :func:`export`; it is measured with the float network.

    Raises:
        UserError: no weights, no photos, a pattern without a layer.
        NumericsError: nothing was quantized, or a float form departs from the model.
    """
    to = parse_forms(to, with_board)  # before weights are read
    network = model_with_weights(config)
    spec = package_spec(config, to, with_board=with_board)
    samples = list(islice(listed_photos(config.eval), limit))
    spec.int8 = plan_int8(config, network, settings)
    if certainty:
        spec.decision = {**(spec.decision or {}), **measured_decision(config, network, certainty)}
    folder = make_package(network, spec, _folder(config, output), lambda written: form_accuracies(written, samples))
    rows = open_package(folder).meta["accuracy"]
    return Int8Report(folder, settings.method, rows, spec.int8.errors, spec.int8.kept)


def _folder(config: Config, output: str | Path | None) -> str | Path:
    return output or config.run.save_inference_dir


def plan_int8(config: Config, network: nn.Layer, settings: Int8Settings) -> Plan:
    """Calibrate and decide what becomes int8; with ``"qat"`` fine-tune another copy of the network too.

    Args:
        config: with its weights.
        network: of these weights.
        settings: how it becomes int8.
    """
    layers_meant(network, settings.keep_float)  # a wrong pattern is said before photos are read
    tensors = calibration_tensors(config, settings.photos, settings.images)
    log.info("calibrating on %d photos", len(tensors))
    plan = plan_layers(network, tensors, settings)
    if settings.method == "qat":
        plan.trained = _fine_tuned(config, network, plan)
    return plan


def _fine_tuned(config: Config, teacher: nn.Layer, plan: Plan) -> nn.Layer:
    student = model_with_weights(config)
    loader = build_loader(config.train, config.arch.class_num)
    try:
        return fine_tune(student, teacher, loader, plan)
    finally:
        loader.close()
