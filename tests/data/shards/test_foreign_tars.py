"""Tars of others get an index."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from shard_helpers import change, content, packed

from ppmobilenet.cli import main
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler
from ppmobilenet.data.shards.dataset import ShardDataset
from ppmobilenet.data.shards.existing import index_tars
from ppmobilenet.data.shards.order import ShardSampler
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import read_bytes
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.shards import Shards


def write_tar(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=kind, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def jpg(photos) -> bytes:
    return (photos / "cat/a.b.c.jpg").read_bytes()


def test_tars_of_others_get_an_index(jpg, photos, tmp_path, capsys):
    webdataset = pytest.importorskip("webdataset")
    folder = tmp_path / "theirs"
    folder.mkdir()
    for number in range(2):
        with webdataset.TarWriter(str(folder / f"part{number}.tar")) as sink:
            for place in range(3):
                data = jpg if (number, place) != (1, 1) else jpg[:200]
                sink.write({"__key__": f"a/{place}", "jpg": data, "cls": number, "json": {"from": "them"}})
    with pytest.raises(DataError, match="there is no photo(.|\n)*ppmobilenet pack .*theirs writes the index"):
        list_photos(folder)
    before = content(folder)
    assert main(["pack", str(folder)]) == 0
    assert "5 photos of 2 classes in 2 shards" in capsys.readouterr().out
    assert f"{folder}/part1.tar/a/1.jpg: the photo is truncated" in (folder / "bad_photos.txt").read_text()
    found = Shards(folder)
    names = [f"part{number}.tar/a/{place}.jpg" for number, place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2))]
    assert [str(member) for member in found] == [f"{folder}/{name}" for name in names]
    assert list(found.labels) == [0, 0, 0, 1, 1] and all(read_bytes(member) == jpg for member in found)
    assert before.items() <= content(folder).items()


def test_tars_of_others_survive_a_packing_into_their_folder(jpg, photos, tmp_path, capsys):
    """An indexing that failed leaves its work there, which is no packing's."""
    theirs = tmp_path / "theirs"
    write_tar(theirs / "shard-000000.tar", [("1.jpg", jpg), ("1.cls", b"1"), ("2.jpg", jpg)])
    before = content(theirs)
    assert main(["pack", str(theirs)]) == 3
    (tmp_path / "list.txt").write_text("nothing.png 0\n")
    for listed in (tmp_path / "list.txt", photos / "list.txt"):
        assert main(["pack", str(listed), str(theirs), "--root", str(photos)]) == 2
        assert "holds tars already" in capsys.readouterr().err
    assert before.items() <= content(theirs).items()


ODD = [b"plain.jpg", "zwölf.jpg".encode(), b"caf\xe9.jpg", b"\xd6\xd0.jpg", b"\xce\xc4.jpg"]
OPS = [{"DecodeImage": {}}, {"ResizeImage": {"size": [8, 8]}}, {"NormalizeImage": {"order": ""}}]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_not_utf8_are_read_by_all(jpg, tmp_path, capsys, kind):
    """As Windows and old systems write them; two such names stay two."""
    names = [*ODD, b"\xe8" * 90 + b".jpg"] if kind == tarfile.USTAR_FORMAT else [*ODD, b"\xe8" * 150 + b".jpg"]
    folder = tmp_path / "theirs"
    texts = [name.decode("utf-8", "surrogateescape") for name in names]
    labels = [(text.replace(".jpg", ".cls"), b"1") for text in texts]
    write_tar(folder / "a.tar", [each for pair in zip(((text, jpg) for text in texts), labels) for each in pair], kind)
    assert main(["pack", str(folder)]) == 0
    assert main(["check-dataset", "--root", str(folder)]) == 0
    assert f"{len(names)} photos" in capsys.readouterr().out
    found = list_photos(folder)
    assert all(read_bytes(member) == jpg == read_bytes(str(member)) for member in found)
    shown = [member.encode().decode().rpartition("/")[2] for member in found]
    assert shown[:5] == ["plain.jpg", "zwölf.jpg", "caf\\xe9.jpg", "\\xd6\\xd0.jpg", "\\xce\\xc4.jpg"]
    dataset = ShardDataset(str(folder), OPS)
    (batch,) = Loader(dataset, ShardSampler(DistributedBatchSampler(6), dataset.windows), num_workers=0)
    assert len(batch.images) == 6
    change(folder / "a.tar", found[2].offset - 400)
    with pytest.raises(DataError, match=r"caf\\xe9.jpg: the shard was changed"):
        read_bytes(found[2])


def test_an_interrupted_packing_is_not_indexed(photos, tmp_path):
    packed(photos, tmp_path / "out")
    (tmp_path / "out/.pack").mkdir()
    (tmp_path / "out/.pack/plan.json").write_text("{}")
    with pytest.raises(UserError, match="was interrupted(.|\n)*goes on with it"):
        index_tars(tmp_path / "out", 1)


def test_a_tar_that_is_replaced_between_two_starts_is_read_again(jpg, tmp_path):
    """By a copy of the same size that keeps its old time, after a refusal that left the first one's part."""
    folder = tmp_path / "tars"
    write_tar(folder / "a.tar", [("1.jpg", jpg), ("1.cls", b"1")])
    write_tar(folder / "b.tar", [("2.jpg", jpg), ("2.cls", b"cat")])
    os.utime(folder / "a.tar", (1e9, 1e9))
    with pytest.raises(DataError, match="the label is 'cat'"):
        index_tars(folder, 1)
    write_tar(folder / "a.tar", [("1.jpg", jpg), ("1.cls", b"2")])
    write_tar(folder / "b.tar", [("2.jpg", jpg), ("2.cls", b"0")])
    os.utime(folder / "a.tar", (1e9, 1e9))
    index_tars(folder, 1)
    assert list(Shards(folder).labels) == [2, 0]


def test_a_folder_of_both_sides_says_which(photos, tmp_path):
    packed(photos, tmp_path / "set/train")
    packed(photos, tmp_path / "set/val")
    with pytest.raises(DataError, match=f"give {tmp_path}/set/train or {tmp_path}/set/val"):
        list_photos(tmp_path / "set")


def test_a_packing_is_not_indexed_over(photos, tmp_path):
    """Its own index names the photos that were left out, and what it was packed from."""
    packed(photos, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(UserError, match="a packing of a list, and have their index"):
        index_tars(tmp_path / "out", 1)
    assert content(tmp_path / "out") == before


def test_tars_that_cannot_be_indexed(jpg, tmp_path):
    def refuse(name: str, members, words: str, cut: int = 0) -> None:
        write_tar(tmp_path / name / "a.tar", members)
        if cut:
            path = tmp_path / name / "a.tar"
            path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DataError, match=words):
            index_tars(tmp_path / name, 2)
        assert not (tmp_path / name / "index.json").exists()

    good = [("1.jpg", jpg), ("1.cls", b"1")]
    refuse("twice", [*good, ("1.png", jpg)], "a.tar: two photos have the key '1': 1.jpg and 1.png")
    refuse("apart", [("1.jpg", jpg), ("2.jpg", jpg), ("1.jpg", jpg)], "two photos have the key '1'")
    refuse("label", [("1.jpg", jpg), ("1.cls", b"cat")], "a.tar/1.cls: the label is 'cat'")
    refuse("some", [*good, ("2.jpg", jpg)], "a.tar/2.jpg: some photos of this tar have a label")
    refuse("cut", good, "a.tar: the tar is truncated or damaged", 600)
    refuse("no end", good, "truncated or damaged: its end is missing", 512 * (3 + -(-len(jpg) // 512)))
    refuse("empty", [("notes.txt", b"hello")], "no photo in these 1 tars")
    labels_behind = [("1.jpg", jpg), ("2.jpg", jpg), ("1.cls", b"1"), ("2.cls", b"0")]
    refuse("behind", labels_behind, "a.tar/1.cls: this label has no photo beside it")
    path = tmp_path / "label/a.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"this tar is compressed \(gzip\)(.|\n)*unpack it first"):
        index_tars(tmp_path / "label", 1)
    with pytest.raises(DataError, match="there is no tar"):
        index_tars(tmp_path, 1)
