"""The workshop's part of the field tests: packages, photos, and what Paddle itself answers.

Usage: ``make_package.py FOLDER [--int8]`` in an environment with Paddle and the export tools. It writes ``usual``,
``pil`` and ``sure`` (packages, the last with a temperature and a threshold), ``photos`` and ``answers.json`` (package
-> photo -> every probability, by the eager network).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workshop"))

from packages import LABELS, lively, ops_for, photo  # noqa: E402


def make(folder: Path, int8: bool = False) -> None:
    """Write everything into an empty or new folder."""
    import paddle

    from ppmobilenet.field.answers import softmax
    from ppmobilenet.field.preprocessing import deployment_ops
    from ppmobilenet.photos.operators import build
    from ppmobilenet.workshop.int8_plan import Int8Settings, plan_layers
    from ppmobilenet.workshop.making import PackageSpec, make_package

    photos = folder / "photos"
    photos.mkdir(parents=True)
    for seed, (width, height) in enumerate([(100, 80), (61, 90), (300, 200), (40, 40)]):
        (photos / f"{seed} {width}x{height}.jpg").write_bytes(photo(width, height, seed, ".jpg"))
    (photos / "grün.png").write_bytes(photo(77, 55, 9))
    pixels = cv2.imdecode(np.frombuffer(photo(90, 60, 5), np.uint8), cv2.IMREAD_COLOR)
    (photos / "z.webp").write_bytes(cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    pil = ops_for(32)
    pil[1]["ResizeImage"].update(interpolation="bicubic", backend="pil")
    model, answers = lively("MobileNetV2_x0_25"), {}
    for name, ops in {"usual": ops_for(32), "pil": pil}.items():
        transform = build(deployment_ops(ops))
        files = sorted(photos.iterdir())
        batch = np.stack([np.ascontiguousarray(transform(file)) for file in files])
        with paddle.no_grad():
            rows = softmax(model(paddle.to_tensor(batch)).numpy())
        answers[name] = {file.name: row.tolist() for file, row in zip(files, rows)}
        make_package(
            model,
            PackageSpec(
                name="MobileNetV2_x0_25",
                ops=ops,
                labels=LABELS,
                to=["onnx"],
                photos=[photo()],
                int8=plan_layers(model, batch, Int8Settings()) if int8 and name == "usual" else None,
            ),
            folder / name,
        )
    _make_sure(folder)
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def _make_sure(folder: Path) -> None:
    """Write the first package again with what an export with a threshold adds: its answers are known, and follow."""
    from ppmobilenet.field.decision import Decision
    from ppmobilenet.field.golden import answer_of
    from ppmobilenet.field.package import dump_json, open_package

    shutil.copytree(folder / "usual", folder / "sure")
    opened = open_package(folder / "usual")
    meta = {**opened.meta, "decision": {"temperature": 2.0, "unsure_below": 0.3}}
    answer = answer_of(Decision.of(meta), opened.golden("output"))
    dump_json({**meta, "golden": {**meta["golden"], "answer": answer}}, folder / "sure" / "package.json")


if __name__ == "__main__":
    make(Path(sys.argv[1]), "--int8" in sys.argv)
