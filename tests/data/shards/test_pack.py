"""Packing: WebDataset reads it, nothing is lost, and a packing that was killed goes on."""

from __future__ import annotations

import hashlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from shard_helpers import content, packed, write_photos

from ppmobilenet.cli import main
from ppmobilenet.data.shards.pack import pack
from ppmobilenet.data.shards.plan import Wanted, make_plan
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.photos.decode import read_bytes
from ppmobilenet.photos.shards import Shards


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
    assert "40 photos of 3 classes" in said and "could not be used: 4 photos" in said
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
