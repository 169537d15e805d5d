"""How fast a full training step is: stock Paddle, our kernels, two processes, and PyTorch on the same machine.

Each candidate is a process of its own with its own thread settings. They take turns, a few steps each, so that what
else happens on the machine hits all of them; ratios of medians of one run are the result.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ppmobilenet import telling
from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.models.family import FAMILIES, Family
from ppmobilenet.registry import MODELS
from ppmobilenet.telling import log

# candidate -> what it is; the order of the table
CANDIDATES = {
    "stock": "Paddle's own operators",
    "accelerated": "Global.cpu_kernels: on",
    "frozen_cached": "Arch.freeze: trunk with cache_features, from the second epoch on",
    "two_processes": "accelerated, two data-parallel processes that share the threads and the batch",
    "torch": "PyTorch, channels_last",
}


@telling.aloud()
def training_speed(
    *,
    models: Sequence[str] = ("v2", "v1"),
    batches: Sequence[int] = (8, 32),
    threads: Sequence[int] = (1, 2),
    candidates: Sequence[str] = tuple(CANDIDATES),
    size: int = 224,
    rounds: int = 5,
) -> dict:
    """Run every combination and return the rows and ratios.

    Args:
        models: families by their short names (``v1``, ``v2``), or names of :func:`ppmobilenet.list_models`.
        batches: images a step.
        threads: threads a candidate may use.
        candidates: of :data:`CANDIDATES`; what cannot run here is left out, with the reason in ``skipped``.
        size: of the images.
        rounds: turns of each candidate, after one to warm up.

    Returns:
        ``rows`` (model, candidate, batch, threads, images_per_second: median, slowest, fastest) and ratios such as
        ``v2.batch8.threads2.accelerated_over_stock``; those of the first batch and most threads as
        ``v2.accelerated_over_stock`` too.

    Raises:
        UserError: an unknown model; or a candidate stopped, with its last words.
    """
    names = {model: _network(model) for model in models}
    result: dict = {"size": size, "rounds": rounds, "cores": os.cpu_count(), "rows": [], "skipped": {}}
    peers = _torch_peers(result["skipped"]) if "torch" in candidates else ()
    for model in models:
        for batch in batches:
            for count in threads:
                halves = count > 1 and count % 2 == 0 and batch % 2 == 0
                runs = {"two_processes": halves, "torch": names[model] in peers}
                here = [c for c in candidates if runs.get(c, True)]
                medians = {}
                for candidate, speeds in _take_turns(here, names[model], batch, count, size, rounds).items():
                    medians[candidate] = statistics.median(speeds)
                    row = {
                        "model": model,
                        "candidate": candidate,
                        "batch": batch,
                        "threads": count,
                        "images_per_second": round(medians[candidate], 2),
                        "slowest": round(min(speeds), 2),
                        "fastest": round(max(speeds), 2),
                    }
                    result["rows"].append(row)
                    log.info(
                        f"{model} batch {batch:<3} threads {count}  {candidate:<14}"
                        f"{row['images_per_second']:8.1f} images/s  ({row['slowest']:.1f} to {row['fastest']:.1f})"
                    )
                for over in ("stock", "torch", "accelerated"):
                    for candidate in medians:
                        if over in medians and candidate != over and candidate not in ("stock", "torch"):
                            ratio = round(medians[candidate] / medians[over], 3)
                            result[f"{model}.batch{batch}.threads{count}.{candidate}_over_{over}"] = ratio
                            if batch == batches[0] and count == max(threads):
                                result[f"{model}.{candidate}_over_{over}"] = ratio
    return result


def _network(model: str) -> str:
    """Return the name that create_model knows."""
    known = list(MODELS)
    short = {family.short: _plain(family) for family in FAMILIES.values() if family.short}
    if model not in short and model not in known:
        raise UserError(f"unknown model {model!r}", where="--models", hint=did_you_mean(model, [*short, *known]))
    return short.get(model, model)


def _plain(family: Family) -> str:
    """Return the variant that its network is without arguments."""
    defaults = {name: p.default for name, p in inspect.signature(family.network).parameters.items()}
    return next(v for v in family.variants if all(defaults[key] == value for key, value in family.fixed(v).items()))


def _torch_peers(skipped: dict) -> tuple[str, ...]:
    """Return the networks that PyTorch can train here."""
    if importlib.util.find_spec("torch") is None:
        skipped["torch"] = "PyTorch is not installed (pip install torch)"
        return ()
    from ppmobilenet.benchmarks.torch_peers import PEERS

    return tuple(PEERS)


class _Candidate:
    """The processes of one candidate, ready to do steps when told."""

    def __init__(self, candidate: str, model: str, batch: int, threads: int, size: int):
        world = 2 if candidate == "two_processes" else 1
        self.batch, self._processes = batch, []
        endpoints = [f"127.0.0.1:{_free_port()}" for _ in range(world)]
        for rank in range(world):
            own = str(threads // world)
            environment = {**os.environ, "OMP_NUM_THREADS": own, "MKL_NUM_THREADS": own, "PYTHONWARNINGS": "ignore"}
            environment["PYTHONPATH"] = os.pathsep.join(
                [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
            )
            if world > 1:
                environment |= {
                    "PADDLE_TRAINER_ID": str(rank),
                    "PADDLE_TRAINERS_NUM": str(world),
                    "PADDLE_LOCAL_SIZE": str(world),
                    "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
                    "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
                    "PADDLE_MASTER": endpoints[0],
                    "PADDLE_DISTRI_BACKEND": "gloo",
                }
            words = [candidate, model, str(batch // world), own, str(size)]
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ppmobilenet.benchmarks.process", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )

    def steps(self, count: int) -> float:
        """Do ``count`` steps; images per second."""
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{count}\n")
                process.stdin.flush()
        return self.batch * count / max(self._seconds(process) for process in self._processes)

    def _seconds(self, process) -> float:
        for line in process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        last = process.stderr.read().strip().splitlines()[-3:]
        raise UserError("a measured process stopped", hint="its last words: " + " / ".join(last))

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def _take_turns(candidates, model, batch, threads, size, rounds) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    with contextlib.ExitStack() as stack:
        running = {}
        for candidate in candidates:
            running[candidate] = _Candidate(candidate, model, batch, threads, size)
            stack.callback(running[candidate].close)
        counts = {}
        for candidate, processes in running.items():
            processes.steps(1)
            # turns of about a second each, whatever the candidate's speed
            counts[candidate] = max(1, min(100, round(processes.steps(2) / batch)))
        for _ in range(rounds):
            for candidate, processes in running.items():
                speeds[candidate].append(processes.steps(counts[candidate]))
    return speeds


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
