"""A measured process, ``python -m ppmobilenet.benchmarks.process CANDIDATE MODEL BATCH THREADS SIZE``.

A line with a number comes in, that many training steps are done, their seconds go out.
"""

from __future__ import annotations

import importlib
import sys
import time

candidate, model, *numbers = sys.argv[1:]
steps = "torch_peers" if candidate == "torch" else "paddle_steps"
step = importlib.import_module(f"ppmobilenet.benchmarks.{steps}").training_step(candidate, model, *map(int, numbers))
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
        step()
    print("seconds", time.perf_counter() - start, flush=True)
