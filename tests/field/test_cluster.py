"""Photos answered on a Ray cluster: one row a photo, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from ppmobilenet import cli
from ppmobilenet.errors import DamagedFileError, DataError, UserError
from ppmobilenet.field.answers import Failure
from ppmobilenet.field.cluster import answers, job, parts
from ppmobilenet.field.cluster.worker import Orders, Worker, identity
from ppmobilenet.field.package import open_package
from ppmobilenet.field.sources import read
from ppmobilenet.photos.names import list_photos

WORKER = b"ray::MapWorker"


@pytest.fixture(scope="module")
def photos(made, tmp_path_factory) -> Path:
    """480 photos of six kinds in folders, one of them empty."""
    folder = tmp_path_factory.mktemp("cluster") / "photos"
    given = sorted((made / "photos").iterdir())
    for number in range(480):
        place = folder / f"{number % 3}" / f"{number:03d}{given[number % 6].suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(given[number % 6], place)
    (folder / "0/000.jpg").unlink(missing_ok=True)
    (folder / "0/000.jpg").write_bytes(b"")
    return folder


def rows(folder: Path) -> list[dict]:
    pq = pytest.importorskip("pyarrow.parquet")
    return pq.read_table(folder).to_pylist()


def everything(found: parts.Photos) -> list[tuple[str, object]]:
    return [each for part in found.parts for each in parts.read(found.kind, found.root, part)]


class TestParts:
    @pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
    @pytest.mark.parametrize("ending", ["\n", "\r\n", "no newline at the end"])
    def test_a_list_is_read_once_whatever_its_parts(self, tmp_path, count, ending):
        lines = [f"a b/{i}ü.jpg {i % 7}" for i in range(count)]
        text = "\n".join(lines) if ending.startswith("no") else "".join(line + ending for line in lines)
        (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
        found = parts.find(str(tmp_path), str(tmp_path / "list.txt"), tmp_path, workers=1)
        names = [name for name, _ in everything(found)]
        assert names == [str(tmp_path / line.rsplit(" ", 1)[0]) for line in lines]
        assert len(found.parts) == -(-count // 64)

    def test_chunks_of_a_large_list_join(self, tmp_path, monkeypatch):
        monkeypatch.setattr(parts, "CHUNK", 97)  # cut in the middle of lines and of letters
        lines = [f"{'ü' * (i % 13)}{i}.jpg" for i in range(700)]
        (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
        found = parts.find(str(tmp_path), str(tmp_path / "list.txt"), tmp_path, workers=1)
        assert [os.path.basename(name) for name, _ in everything(found)] == lines
        assert len(found.parts) == 11

    @pytest.mark.parametrize("chunk", [2, 3, 5, parts.CHUNK])
    @pytest.mark.parametrize(
        "text, said",
        [
            (b"a.jpg\nb.jpg\n\xff.jpg\n", "list.txt:3: byte 0xff is not UTF-8"),
            (b"a.jpg\nb\xc3\xbc.jpg\n\xc3\n.jpg", "list.txt:3: byte 0xc3 is not UTF-8"),
            (b"a.jpg\ncat/\xc3", "list.txt:2: byte 0xc3 is not UTF-8"),  # cut inside of the last letter
            ("\ufeffa.jpg\r\nb.jpg\r\n照".encode()[:-1], "list.txt:3: byte 0xe7 is not UTF-8"),
            ("a.jpg\nb.jpg\n".encode("utf-16"), "list.txt:1: byte 0xff is not UTF-8"),
        ],
    )
    def test_a_list_that_is_not_utf8_is_named_with_its_line(self, tmp_path, monkeypatch, text, said, chunk):
        """As every other reader of lists says it."""
        monkeypatch.setattr(parts, "CHUNK", chunk)
        (tmp_path / "list.txt").write_bytes(text)
        with pytest.raises(DataError, match=said):
            parts.find(str(tmp_path), str(tmp_path / "list.txt"), tmp_path, 1)
        with pytest.raises(DataError, match=said):
            list_photos(tmp_path, tmp_path / "list.txt")

    def test_carriage_returns_alone_end_lines_too(self, tmp_path):
        (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg 1\rb.jpg 2\r\r")
        found = parts.find(str(tmp_path), str(tmp_path / "list.txt"), tmp_path, 1)
        assert [name for name, _ in everything(found)] == list_photos(tmp_path, tmp_path / "list.txt")

    @pytest.mark.parametrize("text", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\r\n", b"\n" * 1000])
    def test_a_list_of_nothing_is_empty(self, tmp_path, text):
        (tmp_path / "list.txt").write_bytes(text)
        with pytest.raises(DataError, match="list.txt: the list is empty"):
            parts.find(str(tmp_path), str(tmp_path / "list.txt"), tmp_path, 1)

    def test_a_folder_with_odd_names(self, tmp_path):
        folder = tmp_path / "photos"
        odd = ["two\nlines.jpg", "label 3.jpg", "ü.png", os.fsdecode(b"\xff.jpg"), "deep/er/z.jpg"]
        for name in [*odd, "notes.txt", ".hidden.jpg"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        out = tmp_path / "out"
        found = parts.find(str(folder), None, out, 4)
        assert {name for name, _ in everything(found)} == {str(folder / name) for name in odd}
        (folder / "later.jpg").write_bytes(b"x")  # another start means the same photos
        assert everything(parts.find(str(folder), None, out, 9)) == everything(found)

    def test_shards(self, tmp_path):
        pytest.importorskip("paddle")  # the workshop packs them
        from shard_helpers import packed, write_photos

        lines = write_photos(tmp_path, 200)
        packed(tmp_path, tmp_path / "shards", lines, seed=None)
        found = parts.find(str(tmp_path / "shards"), None, tmp_path, 1)
        photos = everything(found)
        assert len(photos) == 200 and [(part.start, part.end) for part in found.parts][-1] == (192, 200)
        assert read(photos[0][1], 0)[1] == (tmp_path / lines[0].rsplit(" ", 1)[0]).read_bytes()
        one = photos[0][0].partition(".tar/")[0] + ".tar"
        shard = everything(parts.find(one, None, tmp_path, 1))
        assert shard == photos[: len(shard)] and len(shard) < 200
        (tmp_path / "tars").mkdir()
        shutil.copy(one, tmp_path / "tars")
        with pytest.raises(DataError, match="ppmobilenet pack .*tars writes the index"):
            parts.find(str(tmp_path / "tars"), None, tmp_path / "out", 1)

    def test_parquet(self, tmp_path):
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        images = [{"bytes": b"1", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, {"bytes": b"3", "path": None}]
        images.append({"bytes": None, "path": None})
        pq.write_table(pa.table({"image": images, "label": [0, 1, 2, 3]}), tmp_path / "a.parquet", row_group_size=2)
        found = parts.find(str(tmp_path / "a.parquet"), None, tmp_path, 1)
        first, second, third, none = everything(found)
        assert (first, third) == (("a.jpg", b"1"), (f"{tmp_path}/a.parquet#2", b"3")) and len(found.parts) == 2
        assert second == ("b.jpg", f"{tmp_path}/b.jpg") and isinstance(none[1], Failure)
        pq.write_table(
            pa.table({"image": images[::-1], "label": [3, 2, 1, 0]}), tmp_path / "a.parquet", row_group_size=2
        )
        assert parts.find(str(tmp_path / "a.parquet"), None, tmp_path, 1).identity != found.identity
        pq.write_table(pa.table({"id": [7], "jpg": [b"1"]}), tmp_path / "b.parquet")
        assert everything(parts.find(str(tmp_path / "b.parquet"), None, tmp_path, 1)) == [("7", b"1")]
        pq.write_table(pa.table({"path": ["x/1.jpg"]}), tmp_path / "c.parquet")
        found = everything(parts.find(str(tmp_path / "c.parquet"), None, tmp_path, 1))
        assert found == [("x/1.jpg", f"{tmp_path}/x/1.jpg")]
        pq.write_table(pa.table({"a": [b"1"], "b": [b"1"]}), tmp_path / "d.parquet")
        with pytest.raises(DataError, match="several columns could be the photos: a, b"):
            parts.find(str(tmp_path / "d.parquet"), None, tmp_path, 1)
        pq.write_table(pa.table({"label": [1]}), tmp_path / "e.parquet")
        with pytest.raises(DataError, match=r"no column holds photos \(columns: label\)"):
            parts.find(str(tmp_path / "e.parquet"), None, tmp_path, 1)

    def test_what_is_not_there_on_a_machine_is_named(self, tmp_path):
        with pytest.raises(UserError, match="gone.tar: it is not there on the machine"):
            parts.read("shards", "", parts.Part(0, str(tmp_path / "gone.tar"), 0, 1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
def test_a_photo_that_kills_its_worker_becomes_an_error(made, photos, tmp_path, monkeypatch):
    """Two workers die of it, the third goes photo by photo and dies of it, the fourth passes over it."""
    found = parts.find(str(photos), None, tmp_path, 1)
    words, package = {"package": str(made / "usual"), "threads": 1}, identity(open_package(made / "usual"))
    orders = Orders(found.kind, found.root, tmp_path / "out.jsonl", words, 1, package)
    fatal, part = everything(found)[5][0], found.parts[0]
    monkeypatch.setattr("ppmobilenet.field.cluster.worker.read", lambda path, number: (kill(path, fatal), path))
    ends = []
    while not ends or ends[-1]:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = bool(Worker(orders)(vars(part))["fault"])
            finally:
                os._exit(code)
        ends.append(os.waitpid(child, 0)[1])
        assert len(ends) < 6
    assert ends == [signal.SIGKILL] * 3 + [0]
    rows = [json.loads(line) for line in answers.file_of(orders.folder, 0).read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [name for name, _ in everything(found)[: len(rows)]]
    assert "killed while it answered" in rows[5]["error"]
    assert not list((orders.folder / "_work").iterdir())


@pytest.mark.parametrize("written_by", ["ppmobilenet", "PaddleClas"])
def test_a_package_that_is_replaced_is_not_taken_by_a_worker_that_starts_again(made, tmp_path, written_by):
    """Its answers would be another model's, among those of the first."""
    package, other = tmp_path / "package", tmp_path / "other"
    shutil.copytree(made / "usual", package)
    shutil.copytree(made / "sure", other)
    if written_by == "PaddleClas":
        for folder in (package, other):
            shutil.rmtree(folder / "golden")
            (folder / "package.json").unlink()
        with open(other / "inference.onnx", "ab") as file:
            file.write(b"\x72\0")  # an empty entry of its metadata: nothing else tells them apart
    found = parts.find(str(made / "photos"), None, tmp_path / "out.jsonl", 1)
    words = {"package": str(package), "backend": "onnxruntime", "threads": 1}
    orders = Orders(found.kind, found.root, tmp_path / "out.jsonl", words, 1, identity(open_package(package)))
    package.rename(tmp_path / "first")
    other.rename(package)
    fault = Worker(orders)(vars(found.parts[0]))["fault"]
    assert f"{package}: the package is not the one that the job began with" in fault and "part 0, on" in fault
    assert not answers.file_of(orders.folder, 0).exists()
    package.rename(other)
    (tmp_path / "first").rename(package)
    assert not Worker(orders)(vars(found.parts[0]))["fault"] and answers.file_of(orders.folder, 0).exists()


def kill(path: str, fatal: str) -> bytes:
    if path == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return Path(path).read_bytes()


@pytest.mark.parametrize("suffix", answers.FORMATS)
def test_a_spoilt_part_counts_as_none(tmp_path, suffix):
    pytest.importorskip("pyarrow")
    folder, error = tmp_path / f"out{suffix}", DataError("broken", where="a.jpg")
    assert answers.write(folder, 3, [Failure("a.jpg", error)] * 5) == answers.Counts(5, 5)
    assert answers.count(folder, 3) == answers.Counts(5, 5) and answers.count(folder, 4) is None
    path = answers.file_of(folder, 3)
    path.write_bytes(path.read_bytes()[:-9])
    assert answers.count(folder, 3) is None


def infer(*words) -> int:
    return cli.main(["infer", "--engine", "ray", *map(str, words)])


class TestWords:
    def test_what_ray_does_not_take_is_said(self, made, tmp_path, capsys):
        for words, said in {
            (): "needs photos and a package",
            ("-m", made / "usual", "-i", "x", "--jsonl", "--fps", 3): "does not take --jsonl, --fps",
            ("-m", made / "usual", "-i", "x"): "allowed: a folder whose name ends in .parquet or .jsonl",
            ("-m", made / "usual", "-i", "x", "--save", "a.csv"): "cannot save to 'a.csv'",
            ("-m", made / "nothing", "-i", "x", "--save", "a.jsonl"): "nothing",
        }.items():
            assert infer(*words) in (2, 4)
            assert said in capsys.readouterr().err
        assert cli.main(["infer", "-m", str(made / "usual"), "-i", "x", "--workers", "2"]) == 2

    def test_no_cluster_at_an_address(self, made, tmp_path, monkeypatch, capsys):
        pytest.importorskip("ray")
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        assert infer("-m", made / "usual", "-i", made / "photos", "--save", tmp_path / "a.jsonl") == 2
        assert "RAY_ADDRESS: there is no Ray cluster at '127.0.0.1:9'" in capsys.readouterr().err

    def test_without_ray(self, made, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "ray", None)
        assert infer("-m", made / "usual", "-i", made / "photos", "--save", tmp_path / "a.jsonl") == 2
        assert "pip install 'ppmobilenet[ray]'" in capsys.readouterr().err
        assert not (tmp_path / "a.jsonl").exists()


@pytest.fixture(scope="module")
def ray():
    """A cluster of this machine's own with two processors."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, object_store_memory=10**8, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def workers_below(pid: int) -> list[int]:
    """The processes of Ray's actors among a process's descendants."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if (path / "cmdline").read_bytes().startswith(WORKER):
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(each for each in found if pid in ancestors(each, parents))


def ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found = set()
    while pid in parents and pid not in found:
        found.add(pid)
        pid = parents[pid]
    return found | {pid}


def test_a_killed_worker_and_another_start(ray, made, photos, tmp_path):
    """One row a photo: after SIGKILL of a worker in the middle, and after parts that an interrupted job lacks."""
    names = sorted(str(path) for path in photos.rglob("*.*"))
    (tmp_path / "list.txt").write_text("".join(f"{name} 3\n" for name in [*names, names[1]]))  # one of them twice
    out, result = tmp_path / "answers.parquet", []
    words = {"package": str(made / "usual"), "backend": "onnxruntime", "threads": 1}
    how = {"infer_list": str(tmp_path / "list.txt"), "save": str(out), "workers": 2}
    thread = threading.Thread(target=lambda: result.append(job.run(words, str(photos), **how)))
    thread.start()
    while not list(out.glob("part-*")) and thread.is_alive():
        time.sleep(0.005)
    killed = workers_below(os.getpid())[0]
    os.kill(killed, signal.SIGKILL)
    thread.join(120)
    done = result[0]
    assert killed not in workers_below(os.getpid())
    found = rows(out)
    assert Counter(row["file_name"] for row in found) == Counter([*names, names[1]])
    assert (done.photos, done.failed, done.parts, done.workers) == (481, 1, 8, 2)
    wrong = [row for row in found if row["error"]]
    assert [os.path.basename(row["file_name"]) for row in wrong] == ["000.jpg"] and not wrong[0]["class_ids"]
    expected = json.loads((made / "answers.json").read_text())["usual"]
    best = {name: max(range(len(scores)), key=scores.__getitem__) for name, scores in expected.items()}
    kinds = sorted(best)
    for row in found:
        kind = kinds[int(Path(row["file_name"]).stem) % 6]
        assert row["error"] or row["class_ids"][0] == best[kind]

    with pytest.raises(UserError, match="no machine of the cluster has 64 processors for a worker"):
        job.run({**words, "threads": 64}, str(photos), **{**how, "save": str(tmp_path / "other.jsonl")})
    with pytest.raises(UserError, match=r"holds the answers of an earlier job \(8 parts\)"):
        job.run(words, str(photos), **how)
    for number in (2, 5):
        answers.file_of(out, number).unlink()
    shutil.copy(answers.file_of(out, 0), answers.file_of(out, 1))
    answers.file_of(out, 7).write_bytes(b"spoilt")
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    again = job.run(words, str(photos), resume=True, **how)
    assert (again.parts_before, again.photos_now) == (5, 2 * 64 + 33)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if before[path] != after[path]} == {"part-000007.parquet"}
    with pytest.raises(UserError, match="begun with another value of: topk"):
        job.run({**words, "topk": 2}, str(photos), resume=True, **how)
    (out / "_job.json").write_text("[]")
    with pytest.raises(DamagedFileError, match="not what a job writes"):
        job.run(words, str(photos), resume=True, **how)


def test_a_job_that_was_killed_before_it_began(ray, made, tmp_path, monkeypatch):
    """It has a list of its photos then, and no word of what was asked: the same command lists them anew."""
    photos, out = tmp_path / "photos", tmp_path / "a.jsonl"
    shutil.copytree(made / "photos", photos)
    words = {"package": str(made / "usual"), "backend": "onnxruntime", "threads": 1}
    job_file = job.write_text

    def die(path: Path, *_, **__) -> None:
        (out / f".{path.name}.partial-1-elsewhere-0a1b2c3d").write_bytes(b'{"cut')
        raise KeyboardInterrupt  # nothing is tidied up after SIGKILL, and nothing is to be here

    for resume in (False, True):
        monkeypatch.setattr(job, "write_text", die)
        with pytest.raises(KeyboardInterrupt):
            job.run(words, str(photos), save=str(out), resume=resume)
        assert (out / "_photos.jsonl").is_file() and not (out / "_job.json").exists()
    next(photos.glob("*.webp")).unlink()
    monkeypatch.setattr(job, "write_text", job_file)
    assert job.run(words, str(photos), save=str(out), resume=True).photos == 5
    lines = [json.loads(line) for line in (out / "part-000000.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(line["file_name"] for line in lines) == sorted(map(str, photos.iterdir()))


@pytest.mark.parametrize("name", ["notes.txt", "_photos.jsonl", ".notes.partial-1", "part-000000.jsonl"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_of_the_users_own_is_left_alone(made, tmp_path, capsys, name, resume):
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "a.jsonl" / name).write_text('{"mine": 1}\n')
    assert infer("-m", made / "usual", "-i", made / "photos", "--save", tmp_path / "a.jsonl", *resume) == 2
    assert f"it holds {name!r}, which is no beginning of a job" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl" / name).read_text() == '{"mine": 1}\n'


@pytest.mark.slow
def test_a_fault_on_a_machine_ends_the_job_and_is_said(ray, made, photos, tmp_path):
    out = tmp_path / "a.jsonl"
    words = {"package": str(made / "usual"), "backend": "onnxruntime", "threads": 1}
    job.run(words, str(made / "photos"), save=str(out))
    (out / "part-000000.jsonl").unlink()
    (out / "part-000000.jsonl").mkdir()
    with pytest.raises(UserError, match=r"(?s)cannot write .*part-000000.jsonl.*part 0, on .*--resume then goes on"):
        job.run(words, str(made / "photos"), save=str(out), resume=True)


@pytest.mark.slow
def test_the_first_process_is_killed_and_started_again(made, photos, tmp_path):
    """What a user types, killed as a whole three times, and one worker each time it runs."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "ppmobilenet", "infer", "--engine", "ray", "--workers", "2", "--resume"]
    command += ["-m", str(made / "usual"), "-i", str(photos), "--save", str(tmp_path / "a.jsonl")]
    for kept in (1, 3, 5):
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and len(list((tmp_path / "a.jsonl").glob("part-*"))) < kept:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command).returncode == 3
    lines = [json.loads(line) for path in (tmp_path / "a.jsonl").glob("part-*") for line in path.open()]
    assert Counter(line["file_name"] for line in lines) == Counter(map(str, photos.rglob("*.*")))
