"""Every command in the README is tagged and run: fast ones here, slow ones by `make slow`, board ones on a board.

A tag is an HTML comment on the line before the block: ``<!-- run: fast -->``, ``slow``, ``board``, ``gpu`` or
``install``. The blocks of one tag run in order, in one folder that looks like the repository's top folder with a
folder ``photos`` in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
TAGS = ("fast", "slow", "board", "gpu", "install")
BLOCK = re.compile(r"(?:<!-- run: (?P<tag>\w+) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)


def blocks(readme: Path) -> list[tuple[int, str | None, str]]:
    """Return (line, tag, code) of every bash block."""
    text = readme.read_text(encoding="utf-8")
    return [(text[: m.start()].count("\n") + 1, m["tag"], m["code"]) for m in BLOCK.finditer(text)]


READMES = [REPO / "README.md", REPO / "README_ch.md"]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_command_is_tagged(readme):
    found = blocks(readme)
    assert found
    for line, tag, _ in found:
        assert tag in TAGS, f"{readme.name}:{line}: a bash block without a tag; allowed: {', '.join(TAGS)}"


def test_both_languages_show_the_same_commands():
    strip = [[(tag, re.sub(r"\s*#.*", "", code)) for _, tag, code in blocks(readme)] for readme in READMES]
    assert strip[0] == strip[1]


def test_every_file_that_is_named_exists():
    for readme in READMES:
        for path in re.findall(r"\b(?:configs|tools)/[\w./]+\.(?:yaml|py)", readme.read_text(encoding="utf-8")):
            assert (REPO / path).is_file(), f"{readme.name} names {path}"


def workplace(folder: Path) -> Path:
    """The repository's files without its history, and a folder ``photos`` as a user would have it."""
    for name in ("configs", "tools", "ppmobilenet"):
        (folder / name).symlink_to(REPO / name, target_is_directory=True)
    subprocess.run([sys.executable, REPO / "tools/make_digits.py", folder / "photos"], check=True, capture_output=True)
    for name, count in (("train", 160), ("val", 40)):
        path = folder / f"photos/{name}_list.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    shutil.copy(folder / "photos/val/0021.png", folder / "photo.jpg")
    # random numbers stand for the published weights
    from ppmobilenet import create_model
    from ppmobilenet.weights.writing import write_weights

    state = create_model("MobileNetV2").state_dict()
    write_weights({key: value.numpy() for key, value in state.items()}, folder / "MobileNetV2.pdparams")
    return folder


def run_blocks(tag: str, folder: Path) -> None:
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    # the README says `python` and `ppmobilenet`: those of this environment
    for name, words in {"python": "", "ppmobilenet": " -m ppmobilenet.cli"}.items():
        launcher = bin_folder / name
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        launcher.chmod(0o755)
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(REPO)}
    for line, _, code in (block for block in blocks(REPO / "README.md") if block[1] == tag):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"README.md:{line}\n{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_fast_commands_run(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits that stand for the user's photos")
    run_blocks("fast", workplace(tmp_path))


@pytest.mark.slow
def test_slow_commands_run(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits that stand for the user's photos")
    run_blocks("slow", workplace(tmp_path))
