"""A measured process, ``python -m ppmobilenet.benchmarks.process CANDIDATE MODEL BATCH THREADS SIZE``."""

from __future__ import annotations

import importlib
import sys
import time


def serve(candidate: str, model: str, *numbers: str) -> None:
    """A line with a number comes in, that many training steps are done, their seconds go out."""
    steps = importlib.import_module(
        f"ppmobilenet.benchmarks.{'torch_peers' if candidate == 'torch' else 'paddle_steps'}"
    )
    step = steps.training_step(candidate, model, *map(int, numbers))
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print("seconds", time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
