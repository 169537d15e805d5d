"""The command line as a whole: table of contents, examples, completion, start-up time."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys

import pytest

from ppmobilenet import cli
from ppmobilenet.commands.completion import script

COMMANDS = list(cli.COMMANDS)


def test_help_is_a_table_of_contents(capsys):
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    for name, (_, text, example) in cli.COMMANDS.items():
        assert f"  {name} " in page and text in page and f"ppmobilenet {name} {example}" in page
    assert page.index("choose:") < page.index("train:") < page.index("deploy:")
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    page = capsys.readouterr().out
    assert f"example: ppmobilenet {name} " in page
    parser = cli.build_parser(name)
    silent = [a.dest for a in parser._actions if not a.help and not isinstance(a, argparse._SubParsersAction)]
    assert not silent, "options without a word of help"


# the shell completes the installed command alone, and a checkout has its recipes in configs/
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("completion", "configs")])
def test_every_command_has_its_script_in_tools(name, repo):
    module = cli.COMMANDS[name][0]
    text = (repo / "tools" / f"{module}.py").read_text()
    assert f'main(["{name}", *sys.argv[1:]])' in text


def test_an_unknown_command_is_named(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ppmobilenet.cli import main; main(['--help']); "
        "assert not {'paddle', 'numpy', 'cv2', 'yaml'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def bash_completes(*words: str) -> list[str]:
    if shutil.which("bash") is None:
        pytest.skip("no bash on this machine")
    line = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _ppmobilenet"
    code = f"{script('bash')}\n{asked}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=30)
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_and_files(tmp_path, monkeypatch):
    assert set(bash_completes("ppmobilenet", "co")) == {"completion", "configs", "convert-weights", "cost"}
    assert "--version" in bash_completes("ppmobilenet", "--")
    assert set(bash_completes("ppmobilenet", "cost", "--s")) == {"--scale", "--split", "--sweep"}
    (tmp_path / "photo.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert bash_completes("ppmobilenet", "infer", "-i", "pho") == ["photo.jpg"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(shell):
    text = script(shell)
    assert all(name in text for name in COMMANDS)
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine to read it")
    done = subprocess.run([shell, "-n", "/dev/stdin"], input=text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_completion_command_prints_the_script(capsys):
    assert cli.main(["completion", "fish"]) == 0
    out = capsys.readouterr().out
    assert out == script("fish") and "-a choose" in out and "-l max-latency-ms -r" in out
