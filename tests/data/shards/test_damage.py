"""Damage to shards has a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from shard_helpers import change, packed

from ppmobilenet.cli import main
from ppmobilenet.data.doctor import examine, folders
from ppmobilenet.errors import DamagedFileError, DataError
from ppmobilenet.photos.decode import read_bytes
from ppmobilenet.photos.shards import Shards


def spoil(kind: str, folder: Path) -> None:
    tar = sorted(folder.glob("*.tar"))[1]
    head = json.loads((folder / "index.json").read_text())
    if kind == "truncated":
        tar.write_bytes(tar.read_bytes()[:-20480])
    elif kind == "missing":
        tar.unlink()
    elif kind == "longer":
        tar.write_bytes(tar.read_bytes() + bytes(10240))
    elif kind == "column of another":
        labels = np.load(folder / "index/labels.npy")
        np.save(folder / "index/labels.npy", labels[:-1])
    elif kind == "column missing":
        (folder / "index/offsets.npy").unlink()
    elif kind == "pickle":
        np.save(folder / "index/labels.npy", np.array([print] * 40, object), allow_pickle=True)
    elif kind == "names cut":
        (folder / "index/names.bin").write_bytes((folder / "index/names.bin").read_bytes()[:-3])
    elif kind == "not json":
        (folder / "index.json").write_text('{"format": ')
    elif kind == "newer":
        (folder / "index.json").write_text(json.dumps({**head, "version": 2}))
    elif kind == "leads out":
        head["shards"][0]["file"] = "../other.tar"
        (folder / "index.json").write_text(json.dumps(head))


@pytest.mark.parametrize(
    "kind, error, words",
    [
        ("truncated", DataError, r"shard-000001.tar: this shard is truncated: it has \d+ bytes"),
        ("missing", DataError, "shard-000001.tar: this shard is not there"),
        ("longer", DataError, "shard-000001.tar: this shard is another one, or was changed"),
        ("column of another", DamagedFileError, r"labels.npy: int32 \[39\] here, and index.json says 40 photos"),
        ("column missing", DamagedFileError, "offsets.npy: this part of the index cannot be read"),
        ("pickle", DamagedFileError, "labels.npy: this part of the index cannot be read"),
        ("names cut", DamagedFileError, "names.bin"),
        ("not json", DamagedFileError, "index.json: this is no JSON"),
        ("newer", DamagedFileError, "version 2 of the index"),
        ("leads out", DamagedFileError, "does not say which shards"),
    ],
)
def test_damage_is_found_when_shards_are_opened(shards, kind, error, words, capsys):
    spoil(kind, shards)
    with pytest.raises(error, match=words):
        Shards(shards)
    assert main(["check-dataset", "--root", str(shards)]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_an_index_of_an_older_pack_is_found(photos, shards, tmp_path):
    packed(photos, tmp_path / "new", seed=5)
    shutil.rmtree(tmp_path / "new/index")
    shutil.copytree(shards / "index", tmp_path / "new/index")
    shutil.copy(shards / "index.json", tmp_path / "new")
    with pytest.raises(DataError, match="shard-000000.tar: this shard is not the one that the index is of"):
        Shards(tmp_path / "new")


@pytest.mark.parametrize(
    "where, words", [("photo", "bytes were changed"), ("header", "is not at byte"), ("label", "in a header or a label")]
)
def test_a_changed_byte_is_named(shards, where, words):
    member = Shards(shards)[12]
    label = member.offset + -(-member.size // 512) * 512 + 512
    places = {"photo": member.offset + member.size // 2, "header": member.offset - 400, "label": label}
    change(Path(member.shard), places[where])
    found = [f for f in examine(folders(shards)).findings if f.kind == "damaged shard"]
    (finding,) = found
    assert words in finding.message and finding.is_error
    assert finding.where == (str(member) if where != "label" else member.shard)
    if where == "header":  # found when it is read, too
        with pytest.raises(DataError, match="the shard was changed"):
            read_bytes(Shards(shards)[12])


def test_a_shard_that_shrinks_under_a_reader_is_named(shards):
    found = Shards(shards)
    member = found[len(found) - 1]
    with open(member.shard, "rb+") as file:
        file.truncate(member.offset + 10)
    with pytest.raises(DataError, match="the shard is truncated: it ends before this photo does"):
        read_bytes(member)


def test_the_doctor_compares_shards(photos, tmp_path, capsys):
    lines = (photos / "list.txt").read_text("utf-8").splitlines(True)
    for side, part in (("train", lines[:30]), ("val", [*lines[29:35], "dog/20.png 7\n"])):
        (tmp_path / f"{side}.txt").write_text("".join(part), "utf-8")
        words = ["pack", str(tmp_path / f"{side}.txt"), str(tmp_path / f"set/{side}"), "--root", str(photos)]
        assert main(words) == 0
    for extra in ([], ["--lists-only"]):
        assert main(["check-dataset", "--root", str(tmp_path / "set"), *extra]) == 3
        said = capsys.readouterr().out
        assert "train: 30 photos, 3 classes" in said and "validation: 7 photos" in said
        assert "in train and validation, 1 time;" in said and "has the label 7" in said
    shutil.rmtree(tmp_path / "set/train")
    main(["check-dataset", "--root", str(tmp_path / "set")])
    said = capsys.readouterr().out
    assert "validation: 7 photos" in said and "train: " not in said
