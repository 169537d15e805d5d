"""Prediction reads shards: a row a photo, named by shard and key, whether all of it is asked for or a part."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shard_helpers import packed, write_photos

from ppmobilenet.data.shards.existing import index_tars
from ppmobilenet.errors import DataError
from ppmobilenet.field.infer import Job, run
from ppmobilenet.field.predictor import Classifier
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.shards import Shards

OPS = [{"DecodeImage": {}}, {"ResizeImage": {"size": [8, 8]}}, {"NormalizeImage": {"order": ""}}, {"ToCHWImage": {}}]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    packed(root, root / "shards", write_photos(root), seed=None)
    return root / "shards"


def classifier() -> Classifier:
    return Classifier(OPS, lambda batch: batch.reshape(len(batch), 4, -1).mean(axis=2))


def answer(photos, save: Path, **job) -> tuple[int, list[dict]]:
    code = run(Job(classifier(), photos, 4, str(save), **job), io.StringIO())
    return code, [json.loads(line) for line in save.read_text(encoding="utf-8").splitlines()]


def test_a_row_a_photo_with_the_answer_of_the_single_file(shards, tmp_path):
    photos = list_photos(shards)
    code, rows = answer(photos, tmp_path / "a.jsonl")
    assert code == 0 and len(rows) == 40
    assert [row["file_name"] for row in rows] == [str(path) for path in photos]
    assert rows[0]["file_name"] == f"{shards}/shard-000000.tar/cat/a_b_c.jpg"
    names = [line.rsplit(" ", 1)[0] for line in (shards.parent / "list.txt").read_text("utf-8").splitlines()]
    _, single = answer([str(shards.parent / name) for name in names], tmp_path / "b.jsonl")
    assert [row["scores"] for row in rows] == [row["scores"] for row in single]


def test_parts_of_shards(shards, tmp_path):
    every = [str(path) for path in list_photos(shards)]
    assert list(list_photos(shards / "index.json")) == every
    tars = sorted(shards.glob("*.tar"))
    assert [str(path) for tar in tars for path in list_photos(tar)] == every and len(tars) > 2
    assert list_photos(every[7]) == [every[7]]
    (tmp_path / "list.txt").write_text(f"{every[3]}\n{every[9]} 2\n", encoding="utf-8")
    _, rows = answer(list_photos("/", tmp_path / "list.txt"), tmp_path / "a.jsonl")
    assert [row["file_name"] for row in rows] == [every[3], every[9]] and all("scores" in row for row in rows)
    with pytest.raises(DataError, match="does not exist"):
        list_photos(f"{tars[0]}/none.jpg")


def test_what_was_interrupted_goes_on(shards, tmp_path):
    _, whole = answer(list_photos(shards), tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / ".a.jsonl.partial").write_text("".join(lines[:17]) + lines[17][:20], encoding="utf-8")
    code, rows = answer(list_photos(shards), tmp_path / "a.jsonl", resume=True)
    assert code == 0 and rows == whole


def test_a_damaged_photo_is_a_row_that_says_so(shards, tmp_path):
    member = Shards(shards)[12]
    tar = Path(member.shard)
    before = tar.read_bytes()
    try:
        data = bytearray(before)
        data[member.offset - 500] ^= 0x55
        tar.write_bytes(bytes(data))
        code, rows = answer(list_photos(shards), tmp_path / "a.jsonl")
    finally:
        tar.write_bytes(before)
    assert code == 3 and len(rows) == 40 and "the shard was changed" in rows[12]["error"]
    assert rows[12]["file_name"] == str(member) and all("scores" in row for row in [*rows[:12], *rows[13:]])


def test_names_that_are_not_utf8_are_text_in_answers(shards, tmp_path):
    """Tars of others have such: every odd byte stands as an escape, and two names stay two."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name in ("caf\udce8.png", "caf\udce9.png"):
            info, data = tarfile.TarInfo(name), Shards(shards)[3].content()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index_tars(tmp_path, 1)
    for suffix in ("jsonl", "json", "csv"):
        code = run(Job(classifier(), list_photos(tmp_path), 4, str(tmp_path / f"a.{suffix}")), io.StringIO())
        assert code == 0
        text = (tmp_path / f"a.{suffix}").read_bytes().decode("utf-8", "strict")
        name = f"{tmp_path}/a.tar/caf" + ("\\xe9.png" if suffix == "csv" else "\\\\xe9.png")
        assert name in text and name.replace("xe9", "xe8") in text
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["file_name"] for row in rows] == [f"{tmp_path}/a.tar/caf\\xe{last}.png" for last in "89"]
    assert list_photos(rows[1]["file_name"]) == [rows[1]["file_name"]]


def test_it_needs_neither_paddle_nor_a_configuration(shards):
    code = f"""
import sys
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.decode import decode_image
assert decode_image(list_photos({str(shards)!r})[2]).shape[2] == 3
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split()}
    assert not {"paddle", "ppmobilenet.config", "ppmobilenet.data"} & loaded


def test_very_many_are_not_listed(shards):
    photos = Shards(shards)
    assert len(photos[10:30][5:]) == 15 and photos[10:30][5:][0] == photos[15] and photos[-1] == photos[39]
    with pytest.raises(IndexError):
        photos[40]
    assert np.array_equal([len(part) for part in (photos[:7], photos[7:])], [7, 33])
