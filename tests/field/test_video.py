"""Frames of video files and cameras: which are looked at, when they were, and what the command line makes of them."""

from __future__ import annotations

import csv
import json
import threading
import time

import cv2
import numpy as np
import pytest

from ppmobilenet import cli
from ppmobilenet.errors import DataError, UserError
from ppmobilenet.field import video
from ppmobilenet.field.predictor import Classifier, Predictor
from ppmobilenet.field.video import frames, is_video
from ppmobilenet.field.watch import Watch, watch

OPS = [{"DecodeImage": {}}, {"ResizeImage": {"size": 8}}, {"ToCHWImage": {}}]


def write_video(path, pictures, rate=10):
    """A real video file of BGR pictures; the codec is one that every OpenCV writes."""
    height, width = pictures[0].shape[:2]
    kind = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*kind), rate, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def grey(level, size=(48, 64)):
    return np.full((*size, 3), level, np.uint8)


def brightness(topk=2) -> Classifier:
    """A network of two classes, dark and bright: what it sees is in its answer."""

    def run(batch):
        share = batch.astype(np.float32).mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - share, share], axis=1)

    from ppmobilenet.field.decision import Decision

    return Classifier(OPS, run, ["dark", "bright"], Decision("probabilities", unsure_below=0.6), topk)


def bright(answer) -> float:
    return dict(zip(answer.class_ids, answer.scores))[1]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_every_frame_of_a_file_is_answered_with_its_time(tmp_path, suffix):
    levels = [int(level) for level in np.linspace(20, 230, 25)]
    path = write_video(tmp_path / f"ramp{suffix}", [grey(level) for level in levels])
    answers = list(watch(brightness(), Watch(str(path))))
    assert [answer.moment.frame for answer in answers] == list(range(25))
    assert [answer.moment.seconds for answer in answers] == pytest.approx([n / 10 for n in range(25)], abs=0.005)
    assert [bright(answer) for answer in answers] == pytest.approx([level / 255 for level in levels], abs=0.03)
    assert {answer.moment.time for answer in answers} == {None}
    assert [answer.unsure for answer in answers] == [max(answer.scores) < 0.6 for answer in answers]


def test_fewer_frames_and_the_mean_of_several_where_asked(tmp_path):
    path = write_video(tmp_path / "flicker.avi", [grey(250 if n % 2 else 5) for n in range(40)])
    seconds = [answer.moment.seconds for answer in watch(brightness(), Watch(str(path), rate=2))]
    assert seconds == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5], abs=0.11)
    alone = [bright(answer) for answer in watch(brightness(), Watch(str(path)))]
    smooth = [bright(answer) for answer in watch(brightness(), Watch(str(path), smooth=4))]
    assert np.ptp(alone) > 0.8
    assert smooth == pytest.approx([np.mean(alone[max(0, n - 3) : n + 1]) for n in range(40)], abs=1e-6)
    assert len(list(watch(brightness(), Watch(str(path), limit=3)))) == 3


def test_a_film_of_real_photos_is_answered_as_its_frames_are(made, shared, tmp_path):
    photos = sorted((shared / "data/clothing/val").rglob("*.jpg"))[::40]
    pictures = [cv2.resize(cv2.imread(str(photo)), (160, 160)) for photo in photos for _ in range(3)]
    path = write_video(tmp_path / "clothes.mp4", pictures)
    predictor = Predictor(made / "usual", backend="onnxruntime", channels="BGR")
    decoded = [frame.pixels for frame in frames(path)]
    assert len(decoded) == len(pictures) >= 15
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(decoded, pictures)]) < 8
    for answer, picture in zip(watch(predictor, Watch(str(path))), decoded):
        expected = predictor(picture)
        assert answer.class_ids == expected.class_ids and answer.scores == pytest.approx(expected.scores, abs=1e-6)


@pytest.mark.parametrize(
    "content, message",
    [(None, "does not exist"), (b"", "cannot open this video"), (b"<html>404</html>", "cannot open this video")],
)
def test_what_is_no_video_is_said(tmp_path, content, message):
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(frames(path))


def test_a_video_that_was_cut_short_says_so(tmp_path, caplog):
    path = write_video(
        tmp_path / "cut.avi", [np.random.default_rng(n).integers(0, 255, (64, 64, 3), np.uint8) for n in range(40)]
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    seen = len(list(frames(path)))
    assert 5 < seen < 36
    assert "cut short" in caplog.text or seen >= 18  # without its index some containers tell no count


def test_which_sources_are_videos():
    for source in ("a.mp4", "B.MOV", "camera:0", "rtsp://user@10.0.0.2/live", "http://10.0.0.2/video"):
        assert is_video(source)
    for source in ("a.jpg", "photos/", "camera", b"camera:0"):
        assert not is_video(source)
    with pytest.raises(UserError, match="camera:0, camera:1"):
        list(frames("camera:front"))


def test_a_camera_that_is_not_there(monkeypatch):
    if not video.sys.platform.startswith("linux"):
        pytest.skip("the message names Linux's devices")
    with pytest.raises(UserError, match=r"/dev/video97 is not there"):
        list(frames("camera:97"))
    assert cli.main(["infer", "-m", "x", "-i", "camera:front"]) == 2


class Camera:
    """A camera in place of OpenCV's: gives the next number as grey every 5 ms, breaks off, comes back."""

    opened = 0
    number = 0
    broken: set[int] = set()  # numbers after which no picture comes any more
    gone = 0  # so many openings fail

    def __init__(self, source, *_):
        type(self).opened += 1
        self._open = True
        if type(self).gone and type(self).opened > 1:
            type(self).gone -= 1
            self._open = False

    def isOpened(self):
        return self._open

    def read(self):
        time.sleep(0.005)
        if not self._open or self.number in self.broken:
            type(self).broken = self.broken - {self.number}
            self._open = False
            return False, None
        type(self).number += 1
        return True, grey(self.number % 256)

    def set(self, *_):
        return True

    def get(self, _):
        return 0.0

    def release(self):
        self._open = False


@pytest.fixture
def camera(monkeypatch):
    kind = type("FreshCamera", (Camera,), {})
    monkeypatch.setattr(video.cv2, "VideoCapture", kind)
    monkeypatch.setattr(video, "PAUSES", (0.02, 0.04))
    return kind


def test_the_newest_frame_of_a_camera_comes_first(camera):
    late = []
    for frame in frames("camera:0"):
        time.sleep(0.05)  # slower than the camera
        late.append(camera.number - 1 - frame.number)
        if len(late) == 8:
            break
    assert max(late) < 25, "a backlog grows"
    assert frame.number > 30, "frames were not passed over"
    assert frame.time[:2] == "20" and 0.3 < frame.seconds < 60


def test_a_source_that_breaks_off_is_opened_again(camera, caplog):
    camera.broken, camera.gone = {10}, 2
    seen = [frame for frame, _ in zip(frames("rtsp://10.0.0.2/live"), range(30))]
    assert camera.opened == 4 and seen[-1].number > 10
    assert [frame.number for frame in seen] == sorted({frame.number for frame in seen})
    assert caplog.text.count("no picture comes; it is opened again") == 3


def test_the_reading_ends_with_the_reader(camera):
    for _ in frames("camera:0"):
        break
    deadline = time.monotonic() + 5
    while any(thread.name == "ppmobilenet video" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_command_answers_a_camera_in_lines_of_json(made, camera, capsys, tmp_path):
    words = ["infer", "-m", str(made / "sure"), "-i", "camera:0", "--backend", "onnxruntime", "--topk", "1"]
    assert cli.main([*words, "--frames", "5", "--jsonl", "--smooth", "2"]) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert len(rows) == 5 and "5 frames answered" in said.err and "a second" in said.err
    for row in rows:
        assert row["file_name"] == "camera:0" and row["unsure"] == (row["scores"][0] < 0.3)
        assert {"frame", "seconds", "time"} <= set(row)
    assert rows[-1]["frames_per_second"] > 0 and rows[0]["seconds"] < rows[-1]["seconds"]
    assert cli.main([*words, "--json"]) == 2 and "has no end" in capsys.readouterr().err


def test_the_command_saves_a_films_answers(made, tmp_path, capsys):
    path = write_video(tmp_path / "ramp.avi", [grey(level, (80, 100)) for level in range(0, 240, 40)])
    words = ["infer", "-m", str(made / "usual"), "-i", str(path), "--backend", "onnxruntime", "--topk", "2"]
    for name in ("a.jsonl", "a.csv", "a.json"):
        assert cli.main([*words, "--save", str(tmp_path / name)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 18 and lines[1].startswith(f"{path} 0.10 s: ")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(6))
    assert [row["seconds"] for row in json.loads((tmp_path / "a.json").read_text())] == [n / 10 for n in range(6)]
    with open(tmp_path / "a.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["frame"] for row in table] == [str(n // 2) for n in range(12)] and "unsure" not in table[0]
    assert cli.main([*words[:3], "-i", str(made / "photos"), "--smooth", "3"]) == 2
    assert "are for videos" in capsys.readouterr().err
