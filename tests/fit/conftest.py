"""A small set of photos, and weights that nothing was learned with."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

COLOURS = {"blue": (220, 60, 40), "green": (50, 200, 60), "red": (40, 50, 220)}


def draw(folder, each: int, seed: int = 0, colours=COLOURS) -> None:
    """Write ``each`` photos of every class: blots of its colour on noise."""
    rng = np.random.default_rng(seed)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            photo = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
            photo = cv2.resize(photo, (48, 40), interpolation=cv2.INTER_CUBIC)
            for _ in range(4):
                centre = tuple(int(v) for v in rng.integers(4, 40, 2))
                cv2.circle(photo, centre, int(rng.integers(6, 12)), colour, -1)
            cv2.imwrite(str(folder / name / f"{seed}{number:02}.png"), photo)


@pytest.fixture
def photos(tmp_path):
    """Three classes of twelve photos."""
    draw(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Random numbers in place of published weights, of the smallest network."""
    paddle = pytest.importorskip("paddle")
    pytest.importorskip("sklearn")
    from ppmobilenet import create_model
    from ppmobilenet.weights.writing import write_weights

    paddle.seed(1)
    state = create_model("MobileNetV1_x0_25").state_dict()
    path = tmp_path_factory.mktemp("weights") / "MobileNetV1_x0_25.pdparams"
    return write_weights({key: value.numpy() for key, value in state.items()}, path)
