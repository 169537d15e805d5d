"""What a fit ends with: ten lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppmobilenet.telling import counted


def percent(share: float) -> str:
    """``0.8623`` -> ``"86.2 %"``."""
    return f"{100 * share:.1f} %"


def accuracy(found: Mapping) -> str:
    """Return an accuracy with its uncertainty: ``86.2 % (294 of 341; 95 % sure: 82.2 to 89.5 %)``."""
    low, high = (100 * bound for bound in found["interval"])
    return f"{percent(found['top1'])} ({found['right']} of {found['photos']}; 95 % sure: {low:.1f} to {high:.1f} %)"


def card(result: Mapping) -> list[str]:
    """Return the ten lines.

    Args:
        result: of :func:`ppmobilenet.fit.run.fit`.
    """
    trained, linear, weakest = result["accuracy"], result["linear"], result["weakest"]
    beside = "" if result["kept"] == "linear" else f"; the linear classifier: {percent(linear['top1'])}"
    quick = min(result["latencies"], key=lambda row: row["median_ms"], default=None)
    speed = (
        f"{quick['median_ms']:.1f} ms a photo ({quick['backend']}, {counted(quick['threads'], 'thread')})"
        if quick
        else "not measured"
    )
    package, folder = result["package"], result["output"]
    board = [form["name"] for form in result["forms"] if form["name"].startswith("lite-arm")]
    # with the forms that are there: an export replaces the package
    to = f"{result['export']} --with-board"
    on_board = f"scp -r {package} BOARD:" if board else f"ppmobilenet export -c {folder} {to}"
    wrong = weakest["support"] - weakest["correct"]
    weak = f"{weakest['name']}, {weakest['correct']} of {weakest['support']}" if wrong else "no class had a mistake"
    doubts = f"; {counted(result['suspects'], 'label')} to check, see the report" if result["suspects"] else ""
    return [
        f"right:     {accuracy(trained)}{beside}",
        f"weakest:   {weak}{doubts}",
        f"network:   {result['network']}, {result['what']}",
        f"size:      {_sizes(result['forms'])}",
        f"speed:     {speed} here; {result['seconds']:.0f} s for all this",
        f"report:    {result['report']}",
        f"decisions: {result['plan']}",
        f"try it:    ppmobilenet infer -m {package} -i PHOTO",
        f"board:     {on_board}",
        f"go on:     {result['go_on']}",
    ]


def _sizes(forms: Sequence[Mapping]) -> str:
    return ", ".join(f"{form['name']} {form['bytes'] / 1e6:.1f} MB" for form in forms)
