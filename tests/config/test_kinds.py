"""Constructors' annotations, read as text so that they mean the same on Python 3.9, are the check of a value."""

from __future__ import annotations

import inspect
from typing import Optional, Union

import pytest

from ppmobilenet.config.kinds import kind_of


def kind(annotation):
    return kind_of(inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation))


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [3, -1], [3.0, True, "3", [3]]),
        ("float", [3, 0.5], [True, "0.5", float("nan")]),
        ("bool", [True], [1, "True"]),
        ("str", ["a"], [3, ["a"]]),
        ("int | None", [3], ["a"]),
        ("int | list[int]", [3, [3, 4]], [[3.5], "3"]),
        ("tuple[int, int] | int", [[3, 4], 3], [[3], [3, 4, 5]]),
        ("tuple[int, ...]", [[], [1, 2, 3]], [1, ["a"]]),
        ("Sequence[float]", [[0.5, 1]], [0.5]),
        ("Literal['cv2', 'pil']", ["cv2"], ["PIL", 3]),
        ("dict[str, float]", [{"a": 1}], [[1]]),
        ("Optional[int]", [3], ["a"]),
        ("np.ndarray", ["anything", 3], []),
        ("not ( python", ["anything"], []),
        (Optional[int], [3], ["a"]),
        (Union[int, str], [3, "a"], [[3]]),
        (float, [0.5], ["a"]),
        (inspect.Parameter.empty, ["anything", 3], []),
    ],
)
def test_kind_of(annotation, good, bad):
    for value in good:
        assert kind(annotation).fit(value) == value
    for value in bad:
        with pytest.raises(ValueError):
            kind(annotation).fit(value)


def test_words_that_yaml_reads_as_something_else():
    assert kind("Literal['auto', 'on', 'off']").fit(False) == "off"
    assert kind("str").fit(1e-5, ("a",), {("a",): "1e-5"}) == "1e-5"
    assert kind("bool | str").fit(True, ("a",), {("a",): "True"}) is True
