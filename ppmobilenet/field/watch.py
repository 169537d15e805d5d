"""A video or a camera -> an answer a frame, with its time, smoothed over the last frames where that is asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ppmobilenet.field.answers import Moment, Prediction
from ppmobilenet.field.predictor import Classifier
from ppmobilenet.field.video import frames, is_live

RECENT = 30  # answers over which the frames a second are counted


@dataclass(frozen=True)
class Watch:
    """What to look at, and how.

    Attributes:
        source: see :func:`.video.frames`.
        smooth: the answer is that of the mean probabilities of so many frames; 1: of each frame by itself.
        rate: frames a second at most; None: of a file every frame, of a live source as many as can be answered.
        limit: answers; None: to the end, which a live source has not.
    """

    source: str
    smooth: int = 1
    rate: float | None = None
    limit: int | None = None

    @property
    def live(self) -> bool:
        return is_live(self.source)


def watch(classifier: Classifier, wish: Watch) -> Iterator[Prediction]:
    """Answer frame after frame.

    Args:
        classifier: answers; a frame that it cannot use ends it, since the others are like it.
        wish: what to look at, and how.
    """
    recent: deque[np.ndarray] = deque(maxlen=wish.smooth)
    times: deque[float] = deque(maxlen=RECENT)
    source = frames(wish.source, wish.rate)
    try:
        for frame in islice(source, wish.limit):
            tensor = classifier.preprocess(frame.pixels, channels="BGR")
            recent.append(classifier.probabilities(tensor[None])[0])
            times.append(time.monotonic())
            speed = (len(times) - 1) / max(times[-1] - times[0], 1e-9) if len(times) > 1 else None
            moment = Moment(frame.number, frame.seconds, frame.time, speed)
            yield replace(classifier.answer(np.mean(recent, axis=0), wish.source), moment=moment)
    finally:
        source.close()
