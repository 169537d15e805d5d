"""The model pages' table is the catalogue's."""

from __future__ import annotations

import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.paper import zoo_table
from ppmobilenet.weights import catalog


def test_one_row_a_published_file():
    lines = zoo_table.zoo_table().splitlines()
    assert len(lines) == 2 + len(catalog.rows())
    v2 = next(line for line in lines if "[MobileNetV2](" in line)
    for cell in (
        "3.51 M",
        "314 M",
        "72.15",
        "90.65",
        "20.7",
        "configs/ImageNet/MobileNetV2/MobileNetV2.yaml",
        ".pdparams",
    ):
        assert cell in v2
    assert len({line.count("|") for line in lines}) == 1


def test_the_table_goes_between_its_marks(tmp_path):
    readme = tmp_path / "docs/models.md"
    readme.parent.mkdir()
    readme.write_text(f"# title\n\n{zoo_table.START}\nold\n{zoo_table.END}\n\nend\n")
    assert zoo_table.update(tmp_path, write=False) == 1 and "old" in readme.read_text()
    assert zoo_table.update(tmp_path) == 1
    text = readme.read_text()
    assert text.startswith("# title\n\n") and text.endswith("\n\nend\n") and "old" not in text
    assert zoo_table.zoo_table() in text
    assert zoo_table.update(tmp_path) == 0
    readme.write_text(zoo_table.START)
    with pytest.raises(UserError, match="models.md"):
        zoo_table.update(tmp_path)


def test_the_checkout_s_pages_are_up_to_date(repo):
    assert zoo_table.update(repo, write=False) == 0, "python tools/make_docs.py"
