"""``ppmobilenet completion``: a script that lets the shell complete commands and options.

It is written from the parsers themselves, so it can never lag behind them.
"""

from __future__ import annotations

import argparse

from ppmobilenet import cli
from ppmobilenet.commands._common import Outcome

_BASH = """\
_ppmobilenet() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands} --help --version" -- "$current"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _ppmobilenet ppmobilenet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell; its script is printed")


def run(args: argparse.Namespace) -> Outcome:
    text = script(args.shell)
    return Outcome({args.shell: text}, text.rstrip("\n"))


def script(shell: str) -> str:
    """Return the script for ``bash``, ``zsh`` or ``fish``."""
    if shell == "fish":
        return _fish()
    cases = "\n".join(
        f'    {name}) words="{" ".join(word for action in _options(name) for word in action.option_strings)}" ;;'
        for name in cli.COMMANDS
    )
    bash = _BASH.format(commands=" ".join(cli.COMMANDS), cases=cases)
    return bash if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{bash}"


def _options(command: str) -> list[argparse.Action]:
    """Return a command's options; those of `benchmark train`, `benchmark data`, ... together."""
    parsers = cli.parsers_of(cli.build_parser(command)[0])
    found = [action for each in parsers for action in each._actions if action.option_strings]
    return list({tuple(action.option_strings): action for action in found}.values())


def _fish() -> str:
    lines = ["complete -c ppmobilenet -f -n __fish_use_subcommand -l help", ""]
    for name, (_, text, _) in cli.COMMANDS.items():
        lines.append(f"complete -c ppmobilenet -f -n __fish_use_subcommand -a {name} -d {_quoted(text)}")
        for action in _options(name):
            words = [f"-l {w[2:]}" if w.startswith("--") else f"-s {w[1:]}" for w in action.option_strings]
            told = f" -d {_quoted(action.help % vars(action))}" if action.help else ""
            takes = "" if action.nargs in (0, "?") else " -r"
            lines.append(
                f"complete -c ppmobilenet -n '__fish_seen_subcommand_from {name}' {' '.join(words)}{takes}{told}"
            )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
