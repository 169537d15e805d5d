"""Nothing from outside runs code: held on the syntax tree of the whole package, and on hostile files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(REPO / "ppmobilenet").rglob("*.py"), *(REPO / "tools").glob("*.py")])

BUILTINS = {"eval", "exec", "compile", "__import__", "execfile"}
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "runpy"}
# anything that unpickles, builds any object, runs a shell, or unpacks to where an archive says
CALLS = {
    *("paddle.load", "paddle.framework.io.load", "paddle.static.load", "paddle.jit.load", "torch.load"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"),
    *("os.system", "os.popen", "os.startfile", "pandas.read_pickle", "pd.read_pickle"),
}
METHODS = {"extractall", "unpack_archive"}


def dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "?", *reversed(parts)])


def faults(tree: ast.AST) -> list[str]:
    """Return what a module does that could run code from a file, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in MODULES and not node.level:
                found.append(f"{node.lineno}: from {module} import")
            for alias in node.names:
                if f"{module}.{alias.name}" in CALLS:
                    found.append(f"{node.lineno}: from {module} import {alias.name}")
        elif isinstance(node, ast.Name) and node.id in BUILTINS and not isinstance(node.ctx, ast.Store):
            found.append(f"{node.lineno}: {node.id}")
        elif isinstance(node, ast.Attribute) and (dotted(node) in CALLS or node.attr in METHODS):
            found.append(f"{node.lineno}: {dotted(node)}")
        elif isinstance(node, ast.keyword):
            value = getattr(node.value, "value", None)
            if (node.arg, value) in (("shell", True), ("allow_pickle", True), ("weights_only", False)):
                found.append(f"{node.value.lineno}: {node.arg}={value}")
    return found


def test_the_check_finds_what_it_looks_for():
    for text in (
        "import pickle",
        "from pickle import loads",
        "from yaml import load",
        "x = eval('1')",
        "run = exec",
        "import paddle\npaddle.load('x')",
        "yaml.load(f, Loader=yaml.Loader)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "tar.extractall('.')",
    ):
        assert faults(ast.parse(text)), text
    assert not faults(
        ast.parse("model.eval()\neval: tuple\nyaml.safe_load(f)\nre.compile('a')\nnp.load(f, allow_pickle=False)")
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_module(path):
    assert faults(ast.parse(path.read_text(encoding="utf-8"))) == []
