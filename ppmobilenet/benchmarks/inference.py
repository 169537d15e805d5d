"""How fast a package answers here: every backend in one run, latency and photos a second (``benchmark infer``).

Times on a shared machine mean little by themselves, so all engines take turns within one run and are given as ratios
too.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from ppmobilenet.field.backends import (
    BACKENDS,
    PAUSE,
    choose_form,
    fastest,
    open_backend,
    remember_choice,
    sample_input,
    time_in_turn,
    undisturbed,
    why_not,
)
from ppmobilenet.field.package import Package, open_package
from ppmobilenet.field.predictor import Classifier, Predictor, list_photos

PRECISIONS = ("fp32", "int8")


def _rows(times: Mapping[str, list[float]]) -> list[dict]:
    """Summarise the calls of each engine, fastest first, with the ratio to the fastest."""
    rows = [
        {
            "engine": name,
            "median_ms": round(statistics.median(values) * 1e3, 3),
            "p90_ms": round(float(np.percentile(values, 90)) * 1e3, 3),
        }
        for name, values in times.items()
    ]
    rows.sort(key=lambda row: row["median_ms"])
    for row in rows:
        row["ratio_to_best"] = round(row["median_ms"] / rows[0]["median_ms"], 3)
    return rows


def latency(package: Package, threads: int, rounds: int) -> dict:
    """Time every backend and precision on one photo at a time.

    Returns:
        ``rows`` (see the table), ``auto`` (what the Predictor picks, and its ratio to the best float backend),
        ``paddle_over_onnxruntime`` and ``int8_over_fp32`` where both sides were there, ``left_out`` with reasons. What
        was measured here is what ``auto`` goes by from then on.
    """
    batch, runs, left_out = sample_input(package), {}, {}
    for precision in PRECISIONS:
        for backend in BACKENDS:
            name = backend if precision == "fp32" else f"{backend} int8"
            if precision == "int8" and choose_form(package, backend, precision) is None:
                continue
            reason = why_not(package, backend, precision)
            if reason:
                left_out[name] = reason
                continue
            runs[name] = open_backend(package, backend, threads, precision)[2]
    times = time_in_turn(runs, batch, rounds)
    rows = _rows(times)
    by_name = {row["engine"]: row["median_ms"] for row in rows}
    result: dict = {"threads": threads, "rows": rows, "left_out": left_out}
    floats = {name: value for name, value in by_name.items() if not name.endswith("int8") and name != "lite"}
    if floats:
        chosen = fastest(package, threads)
        result["auto"] = chosen
        result["auto_over_best"] = round(floats[chosen] / min(floats.values()), 3)
        remember_choice(package, threads, "fp32", {name: undisturbed(times[name]) for name in floats})
    ours = [value for name, value in floats.items() if name in ("openvino", "paddle")]
    if ours and "onnxruntime" in floats:
        result["paddle_over_onnxruntime"] = round(min(ours) / floats["onnxruntime"], 3)
    quantized = [value for name, value in by_name.items() if name.endswith("int8")]
    if quantized and floats:
        result["int8_over_fp32"] = round(min(quantized) / min(floats.values()), 3)
    return result


def _plain_loop(classifier: Classifier, photos: Sequence[str]) -> int:
    """What one writes without this library: read, decode, preprocess, run, one photo after the other."""
    for photo in photos:
        pixels = cv2.imread(photo)[:, :, ::-1]
        classifier.probabilities(_plain_preprocess(pixels, classifier)[None]).argmax()
    return len(photos)


def _plain_preprocess(pixels: np.ndarray, classifier: Classifier) -> np.ndarray:
    """PaddleClas's operators as its deployment code has them: float arithmetic on HWC, transposed at the end."""
    value = pixels
    for op in classifier.package.meta["preprocess"]["ops"]:
        if op["op"] == "ResizeImage":
            height, width = value.shape[:2]
            if "resize_short" in op:
                scale = op["resize_short"] / min(height, width)
                size = (round(width * scale), round(height * scale))
            else:
                size = tuple(op["size"])
            value = cv2.resize(value, size, interpolation=cv2.INTER_LINEAR)
        elif op["op"] == "CropImage":
            width, height = op["size"]
            top, left = (value.shape[0] - height) // 2, (value.shape[1] - width) // 2
            value = value[top : top + height, left : left + width]
        elif op["op"] == "NormalizeImage":
            mean, std = np.float32(op["mean"]), np.float32(op["std"])
            value = (value.astype(np.float32) * np.float32(op["scale"]) - mean) / std
        elif op["op"] == "ToCHWImage":
            value = value.transpose(2, 0, 1)
    return np.ascontiguousarray(value)


def end_to_end(package: Package, photos: Sequence[str], threads: int, rounds: int = 3) -> dict:
    """Photos a second from file to name: the plain loop against :meth:`Predictor.stream`, in turns.

    The plain loop runs with Paddle Inference's default engine if it is there (what PaddleClas's deployment code does)
    and, apart, with the same engine as the stream.
    """
    ours = Predictor(package, threads=threads)
    candidates: dict[str, Callable[[], int]] = {
        "stream": lambda: sum(1 for _ in ours.stream(photos)),
        f"plain loop, {ours.backend}": lambda: _plain_loop(ours, photos),
    }
    if why_not(package, "paddle") is None and ours.backend != "paddle":
        default = Predictor(package, backend="paddle", threads=threads)
        candidates["plain loop, paddle"] = lambda: _plain_loop(default, photos)
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            count = run()
            speeds[name].append(count / (time.perf_counter() - start))
    medians = {name: round(statistics.median(values), 2) for name, values in speeds.items()}
    stream = medians["stream"]
    return {
        "photos": len(photos),
        "threads": threads,
        "images_per_second": medians,
        "stream_over": {name: round(stream / value, 3) for name, value in medians.items() if name != "stream"},
    }


def benchmark(
    package: str | os.PathLike,
    images: str | None = None,
    threads: Sequence[int] = (1, 2),
    rounds: int = 30,
) -> dict:
    """Measure a package on this machine.

    Args:
        package: an exported folder.
        images: a folder of photos for photos a second; None leaves that out.
        threads: thread counts to measure at.
        rounds: timed calls of each engine.

    Returns:
        ``latency`` (an entry a thread count), ``end_to_end``, ``package``, ``model``.
    """
    opened = open_package(package)
    result = {
        "package": str(opened.folder),
        "model": opened.meta["name"],
        "latency": [latency(opened, count, rounds) for count in threads],
    }
    if images:
        result["end_to_end"] = end_to_end(opened, list_photos(images)[:200], max(threads))
    return result


def table(result: Mapping) -> str:
    """Return the result as text."""
    lines = [f"{result['model']}, one photo at a time"]
    for entry in result["latency"]:
        lines.append(f"threads {entry['threads']}:  {'engine':<18}{'median ms':>10}{'p90 ms':>9}{'ratio':>8}")
        for row in entry["rows"]:
            lines.append(
                f"{'':12}{row['engine']:<18}{row['median_ms']:10.2f}{row['p90_ms']:9.2f}{row['ratio_to_best']:8.2f}"
            )
        for name, reason in entry["left_out"].items():
            lines.append(f"{'':12}{name:<18}left out: {reason}")
        if "auto" in entry:
            lines.append(f"{'':12}auto takes {entry['auto']}: {entry['auto_over_best']:.2f}x the best float backend")
        for key in ("paddle_over_onnxruntime", "int8_over_fp32"):
            if key in entry:
                lines.append(f"{'':12}{key.replace('_', ' ')} (best of each): {entry[key]:.2f}x")
    whole = result.get("end_to_end")
    if whole:
        lines.append(f"file to name, {whole['photos']} photos, {whole['threads']} processors:")
        for name, speed in whole["images_per_second"].items():
            over = whole["stream_over"].get(name)
            lines.append(f"{'':12}{name:<28}{speed:8.1f} photos/s" + (f"; stream is {over:.2f}x that" if over else ""))
    return "\n".join(lines)
