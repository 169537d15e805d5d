"""Paddle's legacy program -> ONNX."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ppmobilenet.errors import UserError
from ppmobilenet.telling import log
from ppmobilenet.workshop.program import read_program

if TYPE_CHECKING:
    import onnx

OPSET = 13  # the first with per-channel QuantizeLinear, which the int8 form needs
OUTPUT = "output"


def convert(folder: Path) -> Mapping:
    """Write ``inference.onnx`` from ``inference.pdmodel`` in the same folder; return its form.

    The batch axis stays free. Constants are folded with ONNX Runtime's portable optimisations where it is installed.

    Raises:
        UserError: paddle2onnx is not installed, or refuses an operator (with its words).
    """
    target = folder / "inference.onnx"
    # a process of its own: the converter prints much, and an operator it does not know can end the process
    command = [
        sys.executable,
        "-c",
        "import sys, paddle2onnx; m, p, o, v = sys.argv[1:]; "
        # paddle2onnx's default optimiser installs packages from the network: none of that
        "paddle2onnx.export(m, p, o, opset_version=int(v), optimize_tool='None', deploy_backend='onnxruntime')",
        *map(str, (folder / "inference.pdmodel", folder / "inference.pdiparams", target, OPSET)),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=600, check=False, cwd=folder.parent
    )
    if "No module named" in done.stderr:
        missing = done.stderr.rpartition("No module named")[2].strip().strip("'\"")
        raise UserError(f"ONNX export needs the Python package {missing!r}", hint="pip install 'ppmobilenet[export]'")
    if "No space left" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode or not target.is_file():
        if unknown := _unsupported(folder / "inference.pdmodel"):
            raise UserError(
                f"paddle2onnx has no ONNX for the operators {', '.join(unknown)}",
                where="--to onnx",
                hint="express these layers with other operators, or leave onnx out of --to",
            )
        tail = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise UserError(f"paddle2onnx failed (exit code {done.returncode}):\n    {tail}", where="--to onnx")
    _fold(target)
    return {"name": "onnx", "engine": "onnxruntime", "precision": "fp32", "files": [target.name], **tidy(target)}


def _unsupported(model: Path) -> list[str]:
    """Return the operators of a program that paddle2onnx does not know: it ends without naming them."""
    code = "from paddle2onnx import paddle2onnx_cpp2py_export as c; print(*c.get_all_supported_operators())"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    if listed.returncode:
        return []  # an older paddle2onnx keeps its list to itself
    known = {"feed", "fetch", *listed.stdout.split()}
    return sorted({op.type for block in read_program(model).blocks for op in block.ops} - known)


def _fold(path: Path) -> None:
    """Fold constants and batch norm once, here, instead of at every start on the board."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        log.info("onnx: onnxruntime is not installed, constants stay unfolded (same answers, slower start)")
        return
    folded = path.with_suffix(".folded")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # "basic" keeps to standard ONNX operators, so the file runs everywhere
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with contextlib.suppress(FileNotFoundError):
        os.replace(folded, path)


def tidy(path: Path) -> dict[str, str | int]:
    """Make a converter's file one that any runtime of its operators opens: rewrite it in place.

    ONNX Runtime stamps every operator domain that it knows on what it writes, and a runtime refuses a file with a
    domain newer than its own, used or not. Only the domains of the nodes stay, with the oldest file format (IR version)
    that holds their operators, and the output is called ``output``.

    Returns:
        What the form's entry in package.json says of the file: ``input``, ``output`` (names), ``opset``,
        ``ir_version``.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    _rename(graph, graph.output[0].name, OUTPUT)
    used = {_domain(node.domain) for inner in _graphs(graph) for node in inner.node}
    kept = [entry for entry in model.opset_import if _domain(entry.domain) in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = onnx.helper.find_min_ir_version_for(kept, ignore_unknown=True)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    opset = next(entry.version for entry in kept if not _domain(entry.domain))
    return {"input": graph.input[0].name, "output": OUTPUT, "opset": opset, "ir_version": model.ir_version}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every one inside of its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _graphs(inner)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a tensor another name; one that has this name already steps aside."""
    names = {new: f"{new}_inside", old: new}
    for inner in _graphs(graph):
        for node in inner.node:
            for listed in (node.input, node.output):
                listed[:] = [names.get(name, name) for name in listed]
        for entry in [*inner.input, *inner.output, *inner.value_info, *inner.initializer]:
            entry.name = names.get(entry.name, entry.name)
