"""A config and its trained weights -> a package for the field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ppmobilenet.errors import UserError
from ppmobilenet.training.start import model_with_weights
from ppmobilenet.workshop.board_sources import check_board
from ppmobilenet.workshop.forms import PADDLE_FORMS, export_layer, parse_forms
from ppmobilenet.workshop.from_config import (
    check_image_shape,
    deployment_labels,
    evaluation_ops,
    example_photos,
    trained_accuracy,
)
from ppmobilenet.workshop.int8 import plan_int8


def export(
    config: Mapping,
    to: str | Sequence[str] = PADDLE_FORMS,
    output: str | Path | None = None,
    *,
    random_init: bool = False,
    softmax_inside: bool | None = None,
    embed_preprocess: str | None = None,
    int8: bool = False,
    with_board: bool = False,
    log: Callable[[str], None] = print,
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
            (:func:`ppmobilenet.workshop.int8.quantize` can do more, and reports accuracy).
        with_board: put the board program's sources into the package too (``board``); needs a ``lite-...`` form.
        log: where lines for the user go.

    Returns:
        The folder.
    """
    to = parse_forms(to)
    if with_board:
        check_board(to)
    model = model_with_weights(config, random_init)
    class_num = int(config["Arch"].get("class_num", 1000))
    if softmax_inside is None:
        softmax_inside = config["Arch"].get("infer_add_softmax", True)
    ops = evaluation_ops(config)
    check_image_shape(config, ops)
    plan = None
    if int8:
        if embed_preprocess:
            raise UserError(
                "int8 forms take normalised input", where="--embed-preprocess", hint="leave one of them out"
            )
        plan = plan_int8(config, log=log)
    return export_layer(
        model,
        output or config.get("Global.save_inference_dir") or "./inference",
        name=config["Arch"]["name"],
        ops=ops,
        labels=deployment_labels(config, class_num),
        to=to,
        photos=example_photos(config),
        softmax_inside=bool(softmax_inside),
        embed_preprocess=embed_preprocess,
        int8=plan,
        with_board=with_board,
        measure=lambda _written: trained_accuracy(config),
        topk=int(config.get("Infer.PostProcess.topk") or 5),
        log=log,
    )
