"""Wrong labels: ``check-dataset --labels``."""

from __future__ import annotations

import json
import re

import pytest
from fit_helpers import COLOURS

from ppmobilenet.cli import main
from ppmobilenet.data.dataset import Listed
from ppmobilenet.data.doctor import examine, folders
from ppmobilenet.data.shards.pack import pack
from ppmobilenet.data.shards.plan import Wanted
from ppmobilenet.fit import comparison
from ppmobilenet.fit.labels import KIND, doubt_labels
from ppmobilenet.fit.network import candidates

pytest.importorskip("cleanlab", reason="cleanlab is not installed (pip install 'ppmobilenet[fit]')")


@pytest.fixture
def flipped(photos):
    """The photos with lists, two labels of which are wrong; the lines of these."""
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    right = [sorted(COLOURS).index(name.split("/")[0]) for name in names]
    given = list(right)
    given[3], given[27] = 1, 0
    (photos / "train_list.txt").write_text("".join(f"{n} {label}\n" for n, label in zip(names, given)))
    (photos / "label_list.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(sorted(COLOURS))))
    return photos / "train_list.txt", [names[3], names[27]]


def test_flipped_labels_are_found_shown_and_left_out(flipped, photos, weights, tmp_path, capsys):
    listed, wrong = flipped
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    words = ["--root", photos, "--list", listed, "--labels", "--weights", weights, "--fix", tmp_path / "fixed"]
    words += ["--html", tmp_path / "page.html", "--json", tmp_path / "found.json"]
    assert main(["check-dataset", *map(str, words)]) == 0
    assert "suspect label" in capsys.readouterr().out
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    found = [f for f in findings if f["kind"] == "suspect label"]
    assert {str(photos / name) for name in wrong} <= {f["photos"][0] for f in found}
    first = next(f for f in found if f["photos"][0].endswith(wrong[0]))
    assert first["where"] == f"{listed}:4" and "is labelled green, looks like blue" in first["message"]
    kept = (tmp_path / "fixed/train_list.txt").read_text()
    assert not any(name in kept for name in wrong) and kept.count("\n") == 36 - len(found)
    assert "data:image/jpeg;base64" in (tmp_path / "page.html").read_text()
    assert {path: path.read_bytes() for path in before} == before


def test_broken_lists_come_first(flipped, photos, weights, capsys):
    listed, _ = flipped
    listed.write_text(listed.read_text() + "nothing\n")
    words = ["check-dataset", "--root", photos, "--list", listed, "--labels", "--weights", weights]
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().out
    assert f"{listed}:37" in said and "correct the lists first" in said
    lines = listed.read_text().splitlines()[:12]
    listed.write_text("".join(f"{line.rsplit(' ', 1)[0]} 0\n" for line in lines))
    assert main([str(word) for word in words]) == 2
    assert "all photos of the training list are of one class" in capsys.readouterr().out


def test_labels_that_are_right(photos, weights, capsys):
    assert main(["check-dataset", "--root", str(photos), "--labels", "--weights", str(weights)]) == 0
    said = capsys.readouterr().out
    assert ("labels: none looks wrong" in said) != ("suspect label" in said)


def test_lists_with_a_separator_of_their_own(flipped, photos, weights, tmp_path, capsys):
    listed, _ = flipped
    listed.write_text(listed.read_text().replace(" ", ";"))
    words = ["--root", photos, "--list", listed, "--delimiter", ";", "--labels", "--weights", weights]
    assert main(["check-dataset", *map(str, words)]) == 0
    said = capsys.readouterr().out
    assert all(re.search(f"{re.escape(str(listed))}:{line}: \\S+ is labelled", said) for line in (4, 28))


def test_networks_are_compared_on_a_sample_of_shards_too(flipped, photos, weights, tmp_path, caplog, monkeypatch):
    """Not on every photo that there is: shards hold millions."""
    listed, _ = flipped
    pack(Wanted(listed, photos, seed=None, shard_bytes=24_000), tmp_path / "set/train", 2)
    monkeypatch.setattr(comparison, "SAMPLE", 12)
    caplog.set_level("INFO", "ppmobilenet")
    said, found = [], []
    for lists in ({"train": Listed(listed, photos)}, folders(tmp_path / "set")):
        diagnosis = examine(lists, photos=False)
        doubt_labels(diagnosis, lists, candidates("auto", weights))
        said.append([record.message for record in caplog.records if "a linear classifier" in record.message])
        found.append([finding.message for finding in diagnosis.findings if finding.kind == KIND])
        caplog.clear()
    assert len(said[0]) == 1 and "of 12 photos" in said[0][0]
    assert said[1] == said[0] and found[1] == found[0] != []


def test_shards_without_labels_are_refused(flipped, photos, weights, tmp_path, capsys):
    listed, _ = flipped
    listed.write_text("".join(line.rsplit(" ", 1)[0] + "\n" for line in listed.read_text().splitlines()))
    pack(Wanted(listed, photos, labelled=False), tmp_path / "shards", 2)
    assert main(["check-dataset", "--root", str(tmp_path / "shards"), "--labels", "--weights", str(weights)]) == 3
    assert "nobody said what these photos show" in capsys.readouterr().out


def test_several_labels_are_refused(flipped, photos, weights, capsys):
    listed, _ = flipped
    listed.write_text("".join(line.rsplit(" ", 1)[0] + " 0,1,0\n" for line in listed.read_text().splitlines()))
    words = ["check-dataset", "--root", photos, "--list", listed, "--labels", "--weights", weights]
    assert main([str(word) for word in words]) == 2
    assert f"{listed}: one class a photo is looked at" in capsys.readouterr().out
