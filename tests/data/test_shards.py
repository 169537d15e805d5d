"""Shards: WebDataset reads them, nothing is lost, a packing that was killed goes on, and damage has a name."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from shard_helpers import content, packed, write_photos

from ppmobilenet.benchmarks.shards import start_up
from ppmobilenet.cli import main
from ppmobilenet.data.dataset import ImageNetDataset
from ppmobilenet.data.doctor import examine, folders
from ppmobilenet.data.loader import Loader
from ppmobilenet.data.samplers import DistributedBatchSampler, Share
from ppmobilenet.data.shards.dataset import ShardDataset
from ppmobilenet.data.shards.existing import index_tars
from ppmobilenet.data.shards.order import ShardSampler, Windows
from ppmobilenet.data.shards.pack import pack
from ppmobilenet.data.shards.plan import Wanted, make_plan
from ppmobilenet.errors import DamagedFileError, DataError, UserError
from ppmobilenet.photos.decode import read_bytes
from ppmobilenet.photos.names import list_photos
from ppmobilenet.photos.shards import Shards

OPS = [{"DecodeImage": {}}, {"RandCropImage": {"size": 16}}, {"RandFlipImage": {}}, {"NormalizeImage": {"order": ""}}]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    (root / "list.txt").write_text("".join(write_photos(root)), encoding="utf-8")
    return root


@pytest.fixture
def shards(photos, tmp_path) -> Path:
    """Shards in the list's order, to be spoilt."""
    packed(photos, tmp_path / "shards", seed=None)
    return tmp_path / "shards"


def listed(photos: Path) -> list[tuple[str, int]]:
    pairs = (line.rsplit(" ", 1) for line in (photos / "list.txt").read_text("utf-8").splitlines())
    return [(name, int(label)) for name, label in pairs]


def test_webdataset_reads_what_was_packed(photos, shards):
    webdataset = pytest.importorskip("webdataset")
    tars = sorted(map(str, shards.glob("*.tar")))
    assert len(tars) > 2
    read = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert len({sample["__key__"] for sample in read}) == len(read) == 40
    for sample, (name, label) in zip(read, listed(photos)):
        (suffix,) = set(sample) - {"__key__", "__url__", "__local_path__", "cls"}
        assert int(sample["cls"]) == label and suffix in ("png", "jpg")
        assert sample[suffix] == (photos / name).read_bytes()
    keys = [sample["__key__"] for sample in read]
    assert keys[0] == "cat/a_b_c" and "cat/same" in keys and "cat/same-7" in keys


def test_the_index_says_where_each_photo_is(photos, shards):
    found = Shards(shards)
    assert len(found) == 40 and found.counts == {0: 14, 1: 13, 2: 13}
    for place, (name, label) in enumerate(listed(photos)):
        member, data = found[place], (photos / name).read_bytes()
        with open(member.shard, "rb") as tar:
            tar.seek(member.offset)
            assert tar.read(member.size) == data == read_bytes(member) == read_bytes(str(member))
        assert found.labels[place] == label
        assert bytes(found.sha256[place]) == hashlib.sha256(data).digest()
    with pytest.raises(DataError, match="does not exist"):
        read_bytes(f"{found[0].shard}/dog/none.png")
    assert [str(path) for path in found[3:6]] == [str(found[place]) for place in (3, 4, 5)]


def test_the_bytes_depend_on_the_list_alone(photos, tmp_path):
    for name, workers in (("one", 1), ("three", 3)):
        done = packed(photos, tmp_path / name, workers=workers)
        assert (done.photos, done.bad, done.classes) == (40, 0, 3) and done.made == done.shards > 2
    assert content(tmp_path / "one") == content(tmp_path / "three")
    again = packed(photos, tmp_path / "one")
    assert again.made == 0 and again.photos == 40
    other = packed(photos, tmp_path / "other seed", seed=1)
    assert other.photos == 40
    first, second = (list(Shards(tmp_path / name).labels) for name in ("one", "other seed"))
    assert first != second and first != [label for _, label in listed(photos)]


def test_a_killed_packing_goes_on_to_the_same_bytes(photos, tmp_path):
    root = tmp_path / "many"
    root.mkdir()
    data = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    encoded = cv2.imencode(".png", data)[1].tobytes()
    lines = []
    for number in range(200):
        (root / f"{number}.png").write_bytes(encoded)
        lines.append(f"{number}.png {number % 2}\n")
    (root / "list.txt").write_text("".join(lines))
    words = ["pack", str(root / "list.txt"), str(tmp_path / "killed"), "--shard-mb", "2", "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "ppmobilenet", *words], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "killed").glob(".pack/*.npz"))) < 2:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "killed/index.json").exists()
    done = len(list((tmp_path / "killed").glob("*.tar")))
    assert main(words) == 0
    assert main([*words[:2], str(tmp_path / "whole"), *words[3:]]) == 0
    assert 2 <= done < len(list((tmp_path / "whole").glob("*.tar")))
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_bad_photos_are_named_and_nothing_else_is_lost(photos, tmp_path, capsys):
    root = tmp_path / "some"
    lines = write_photos(root)
    (root / "cut.jpg").write_bytes((photos / "cat/a.b.c.jpg").read_bytes()[:300])
    (root / "page.jpg").write_text("<html>not found</html>")
    (root / "empty.png").write_bytes(b"")
    bad = ["cut.jpg", "page.jpg", "empty.png", "gone.png"]
    (root / "list.txt").write_text("".join([*lines[:9], *(f"{name} 1\n" for name in bad), *lines[9:]]), "utf-8")
    assert main(["pack", str(root / "list.txt"), str(tmp_path / "out"), "--shard-mb", "0.02"]) == 0
    said, written = capsys.readouterr().out, (tmp_path / "out/bad_photos.txt").read_text().splitlines()
    assert "40 photos of 3 classes" in said and "4 photos could not be used" in said
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in written] == ["10", "11", "12", "13"]
    for line, name, words in zip(written, bad, ("truncated", "web page", "0 bytes", "does not exist")):
        assert name in line and words in line and line in said
    found = {hashlib.sha256((root / line.rsplit(" ", 1)[0]).read_bytes()).digest() for line in lines}
    assert {bytes(digest) for digest in Shards(tmp_path / "out").sha256} == found


def test_storage_that_goes_away_stops_the_packing_and_loses_no_photo(tmp_path):
    root, out = tmp_path / "mounted", tmp_path / "out"
    lines = write_photos(root)
    path = tmp_path / "list.txt"
    path.write_text("".join(lines), "utf-8")
    wanted = Wanted(path, root, 24_000)
    make_plan(out / ".pack", wanted, 1)
    root.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(DataError, match="it was there when the packing began(.|\n)*the same command goes on"):
            pack(wanted, out, 2)
    (tmp_path / "away").rename(root)
    (root / "dog/3.png").unlink()  # one that was removed is a bad photo like any other
    done = pack(wanted, out, 2)
    assert (done.photos, done.bad) == (39, 1) and "dog/3.png: the photo does not exist" in done.faults[0]


@pytest.mark.parametrize(
    "text, words",
    [
        ("\n\n", "the list holds no photo"),
        ("dog/0.png 0\ndog/1.png cat\n", "list.txt:2: the label 'cat' is not a whole number"),
        ("dog/0.png,0\n", "a comma separates path and label here"),
        ("dog/nothing.png 0\n", "none of its 1 photos is there"),
        (b"dog/0.png 0\nph\xe9.png 1\n", "list.txt:2: byte 0xe9 is not UTF-8"),
        (None, "the list file does not exist"),
        ("page.jpg 0\n", "none of its 1 photos can be used; the first: .*web page"),
    ],
)
def test_lists_that_cannot_be_packed(photos, tmp_path, text, words):
    (photos / "page.jpg").write_text("<html>")
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words):
        pack(Wanted(path, photos), tmp_path / "out", 1)
    assert not (tmp_path / "out/index.json").exists()


def test_a_folder_of_something_else_is_not_touched(photos, shards, tmp_path):
    before = content(shards)
    with pytest.raises(UserError, match="packing of something else, or one with other options"):
        packed(photos, shards, shard_bytes=50_000, seed=None)
    (tmp_path / "tars").mkdir()
    shutil.copy(next(shards.glob("*.tar")), tmp_path / "tars")
    with pytest.raises(UserError, match="holds tars already"):
        packed(photos, tmp_path / "tars")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file, and a folder is needed"):
        packed(photos, tmp_path / "file")
    assert content(shards) == before


def test_a_full_disk_is_said_and_the_same_command_goes_on(photos, tmp_path):
    words = [sys.executable, "-m", "ppmobilenet", "pack", str(photos / "list.txt"), str(tmp_path / "out")]
    limit = 10_000  # bytes of a file

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    full = subprocess.run(words, capture_output=True, text=True, preexec_fn=small)
    assert full.returncode == 2 and "cannot write" in full.stderr and "the same command goes on" in full.stderr
    assert "Traceback" not in full.stderr
    assert subprocess.run(words, capture_output=True).returncode == 0
    assert len(Shards(tmp_path / "out")) == 40 and not list((tmp_path / "out").glob(".*"))


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


def change(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(bytes(data))


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
        assert "in train and validation, 1 times" in said and "has the label 7" in said
    shutil.rmtree(tmp_path / "set/train")
    main(["check-dataset", "--root", str(tmp_path / "set")])
    said = capsys.readouterr().out
    assert "validation: 7 photos" in said and "train: " not in said


# ------------------------------------------------------------------------------------------------ the order of an epoch

PHOTOS = np.array([3, 0, 11, 7, 5, 20, 1, 9])


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("streams", [1, 3, 4, 50])
@pytest.mark.parametrize("window", [1, 4, 10, 1000])
def test_each_photo_comes_once_and_ranks_share_evenly(window, streams, world):
    count, plain = int(PHOTOS.sum()), DistributedBatchSampler(4, shuffle=True)
    sampler = ShardSampler(plain, Windows(PHOTOS, window, streams))
    labels, drawn, times = np.zeros(count), [], []
    for rank in range(world):
        draws = list(sampler.batches(labels, Share(rank, world), 5, 2))
        assert len(draws) == sampler.steps(count, Share(rank, world)) == plain.steps(count, Share(rank, world))
        for one, other in zip(sampler.batches(labels, Share(rank, world), 5, 2, start=3), draws[3:]):
            assert np.array_equal(one.indices, other.indices) and np.array_equal(one.times, other.times)
        drawn.append(np.concatenate([draw.indices for draw in draws]))
        times.append(np.concatenate([draw.times for draw in draws]))
    assert len({len(part) for part in drawn}) == 1
    together, first = np.concatenate(drawn), np.concatenate(times) == 0
    assert sorted(together[first]) == list(range(count)) and (~first).sum() == -count % world
    if window >= count:  # then it is the order of single files
        order = plain.order(labels, world, 5, 2)
        assert all(np.array_equal(order[rank::world], drawn[rank]) for rank in range(world))


def test_the_order_does_not_depend_on_the_number_of_processes():
    sampler = ShardSampler(DistributedBatchSampler(6, shuffle=True), Windows(PHOTOS, 12, 4))
    alone = [draw.indices for draw in sampler.batches(np.zeros(56), Share(), 1, 0)]
    sampler.batch_size = 3
    pairs = zip(*(sampler.batches(np.zeros(56), Share(rank, 2), 1, 0) for rank in range(2)))
    together = [np.ravel([one.indices, other.indices], "F") for one, other in pairs]
    assert all(np.array_equal(a, b) for a, b in zip(alone[:-1], together[:-1]))


def test_shards_are_read_one_after_the_other():
    """A process whose streams are its own opens few shards at a time, and only its part of them."""
    photos = np.full(64, 100)
    windows = Windows(photos, 400, 4)
    for rank, others in ((0, 1), (1, 0)):
        mine, theirs = (
            np.concatenate(
                [
                    d.indices
                    for d in ShardSampler(DistributedBatchSampler(20, True), windows).batches(
                        np.zeros(6400), Share(each, 2), 0, 0
                    )
                ]
            )
            // 100
            for each in (rank, others)
        )
        assert len(set(mine) & set(theirs)) <= 4 and len(set(mine[:200])) <= 4
    orders = [ShardSampler(DistributedBatchSampler(20, True), windows).order(np.zeros(6400), 1, 0, e) for e in (0, 1)]
    assert not np.array_equal(*orders)
    # a window mixes: its first photos are not in the order they lie in
    assert len(set(np.diff(orders[0][0:400:4]).tolist())) > 50


def load(dataset, workers: int = 0, sampler=None, **share) -> Loader:
    sampler = sampler or DistributedBatchSampler(6, shuffle=True)
    if isinstance(dataset, ShardDataset):
        sampler = ShardSampler(sampler, dataset.windows)
    return Loader(dataset, sampler, num_workers=workers, seed=3, **share)


def epoch(loader: Loader, start: int = 0) -> list:
    loader.set_epoch(2, start)
    try:
        return list(loader)
    finally:
        loader.close()


def test_batches_are_those_of_single_files_and_start_anywhere_with_any_workers(photos, shards):
    single = epoch(load(ImageNetDataset(str(photos), str(photos / "list.txt"), OPS)))
    for workers in (0, 2):
        ours = epoch(load(ShardDataset(str(shards), OPS), workers))
        assert len(single) == len(ours) == 7
        for one, other in zip(single, ours):
            assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
    windowed = ShardDataset(str(shards), OPS, window=8, streams=2)
    whole = epoch(load(windowed))
    assert sorted(i for batch in whole for i in batch.indices) == list(range(40))
    assert [list(batch.indices) for batch in whole] != [list(batch.indices) for batch in single]
    for workers in (1, 2):
        for one, other in zip(epoch(load(windowed, workers), start=4), whole[4:]):
            assert np.array_equal(one.images, other.images)


def test_photos_that_were_damaged_since_are_skipped_by_name(shards, caplog):
    member = Shards(shards)[2]
    change(Path(member.shard), member.offset - 400)
    with pytest.raises(DataError, match="the shard was changed") as error:
        epoch(load(ShardDataset(str(shards), OPS), sampler=DistributedBatchSampler(6)))
    assert str(member) in str(error.value)
    batches = epoch(load(ShardDataset(str(shards), OPS), 1, DistributedBatchSampler(6), max_bad_samples=1))
    assert sum(len(batch.labels) for batch in batches) == 39 and str(member) in caplog.text


def test_labels_are_checked(photos, shards, tmp_path):
    with pytest.raises(DataError, match=r"13 photos have labels .* class_num 2: 2 to 2(.|\n)*class_num=3"):
        ShardDataset(str(shards), class_num=2)
    (tmp_path / "paths.txt").write_text("dog/1.png\ndog/2.png\n")
    words = ["pack", str(tmp_path / "paths.txt"), str(tmp_path / "bare"), "--root", str(photos), "--unlabelled"]
    assert main(words) == 0
    assert [member.rsplit("/", 1)[1] for member in sorted(Shards(tmp_path / "bare"))] == ["1.png", "2.png"]
    with pytest.raises(DataError, match="packed without labels"):
        ShardDataset(str(tmp_path / "bare"))
    with pytest.raises(UserError, match="window 0"):
        ShardDataset(str(shards), window=0)


# ------------------------------------------------------------------------------------------ tars that are there already


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
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
    with pytest.raises(DataError, match="there is no tar"):
        index_tars(tmp_path, 1)


# ---------------------------------------------------------------------------------------------------------- very many


def test_a_large_index_opens_at_once_and_in_little_memory():
    found = start_up(1_000_000)
    assert found["index_bytes"] > 65e6
    assert found["own_megabytes"] < 24 and found["open_seconds"] < 5 and found["resumed_batch_seconds"] < 2
