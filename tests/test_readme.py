"""Every command in the README and the pages it leads to is tagged and run: fast ones here, slow ones by `make slow`.

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


# English, Chinese
PAGES = {"README.md": "README_ch.md"} | {
    f"docs/{name}.md": f"docs/ch/{name}.md" for name in ("training", "models", "deployment", "reliability")
}
BOTH = [page for pair in PAGES.items() for page in pair]


@pytest.mark.parametrize("page", BOTH)
def test_every_command_is_tagged(page):
    for line, tag, _ in blocks(REPO / page):
        assert tag in TAGS, f"{page}:{line}: a bash block without a tag; allowed: {', '.join(TAGS)}"


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_show_the_same_commands(page):
    own, other = (
        [(tag, re.sub(r"\s*#.*", "", code)) for _, tag, code in blocks(REPO / name)] for name in (page, PAGES[page])
    )
    assert own == other


LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("page", [*BOTH, *(f"docs/{path.name}" for path in sorted((REPO / "docs").glob("*.md")))])
def test_every_file_that_is_named_exists(page):
    text = (REPO / page).read_text(encoding="utf-8")
    for path in re.findall(r"\b(?:configs|tools)/[\w./]+\.(?:yaml|py)", text):
        assert (REPO / path).is_file(), f"{page} names {path}"
    for link in LINK.findall(text):
        assert ((REPO / page).parent / link).exists(), f"{page} leads to {link}"


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
    tagged = ((page, line, code) for page in PAGES for line, found, code in blocks(REPO / page) if found == tag)
    for page, line, code in tagged:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page}:{line}\n{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_fast_commands_run(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits that stand for the user's photos")
    run_blocks("fast", workplace(tmp_path))


@pytest.mark.slow
def test_slow_commands_run(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits that stand for the user's photos")
    run_blocks("slow", workplace(tmp_path))
