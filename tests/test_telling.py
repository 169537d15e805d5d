"""What the package says is seen once, where the outermost listener wants it."""

import logging

import pytest

from ppmobilenet import telling


@telling.aloud()
def job():
    telling.log.info("a line")
    telling.log.warning("a warning")


def test_a_library_call_speaks_on_standard_output(capsys):
    before = telling.log.level, list(telling.log.handlers), telling.log.propagate
    job()
    assert capsys.readouterr() == ("a line\n", "a warning\n")
    telling.log.info("nobody listens")
    assert capsys.readouterr() == ("", "")
    assert (telling.log.level, telling.log.handlers, telling.log.propagate) == before


@pytest.mark.parametrize(
    ("to", "out", "err"),
    [
        ("stderr", "", "a line\na warning\nbeside\n"),
        (telling.NOWHERE, "", "a warning\n"),
        (None, "a line\n", "a warning\nbeside\n"),  # the command line: it shows warnings and decides nothing else
    ],
)
def test_the_outermost_decides_where(to, out, err, capsys):
    with telling.aloud(to):
        job()
        telling.tell("beside")
    assert capsys.readouterr() == (out, err)


def test_a_listener_of_the_users_own_gets_the_lines_alone(capsys):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    telling.log.addHandler(handler)
    try:
        job()
    finally:
        telling.log.removeHandler(handler)
    assert lines == ["a line", "a warning"] and capsys.readouterr().out == ""


def test_a_log_file_and_a_process_that_says_nothing(tmp_path, capsys):
    with telling.aloud(file=tmp_path / "train.log"):
        job()
        with telling.aloud(show=False):
            telling.log.warning("of another process")
    said = capsys.readouterr()
    assert "another process" not in said.out + said.err
    text = (tmp_path / "train.log").read_text()
    assert "INFO a line\n" in text and "WARNING a warning\n" in text and "another" not in text
