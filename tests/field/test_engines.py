"""Engines under real use: many threads, forks, slow sources, machines without a cache, inputs that do not fit."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from ppmobilenet.errors import DamagedFileError, DataError, UserError
from ppmobilenet.field import backends
from ppmobilenet.field.engines import lite_env
from ppmobilenet.field.engines.pool import EnginePool
from ppmobilenet.field.predictor import Classifier, Failure, Predictor
from ppmobilenet.workshop.making import PackageSpec, make_package
from ppmobilenet.zoo import create_model

pytestmark = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="the forms tried here need Paddle 3")
OPS = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
LABELS = list("abcdefg")


def network(seed: int):
    """Untrained, with weights that tell photos apart."""
    paddle.seed(seed)
    model, rng = create_model("MobileNetV1_x0_25", class_num=len(LABELS)), np.random.default_rng(seed)
    for value in model.parameters():
        if value.ndim > 1:
            spread = (2 / np.prod(value.shape[1:])) ** 0.5 if value.ndim == 4 else 3.0
            value.set_value(rng.normal(0, spread, value.shape).astype("float32"))
    model.eval()
    return model


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    to = ["inference", "pdmodel", "onnx"] + (["lite-x86"] if lite_env.existing() else [])
    folder = tmp_path_factory.mktemp("engines") / "package"
    return make_package(network(1), PackageSpec(name="x", ops=OPS, labels=LABELS, to=to), folder)


def photos(count: int) -> list[np.ndarray]:
    """RGB pixels, each of another look."""
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 255, (4, 4, 3), np.uint8), (40, 36)) for _ in range(count)]


def scores(answer) -> np.ndarray:
    assert not isinstance(answer, Failure), answer
    return np.array(answer.scores)[np.argsort(answer.class_ids)]


def in_threads(count: int, work) -> None:
    """Run ``work(number)`` in threads; what one raises is raised."""
    raised = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def run_python(text: str, **environment: str) -> subprocess.CompletedProcess:
    known = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        env={**known, **environment},
        timeout=300,
    )


# ---------------------------------------------------------------------------------------------------------------------
# threads


@pytest.mark.parametrize("backend", list(backends.BACKENDS))
def test_eight_threads_get_their_own_photos_answers(package, backend):
    if backend == "lite" and lite_env.existing() is None:
        pytest.skip("Paddle Lite's environment was not made yet (`ppmobilenet export --to lite-x86` makes it)")
    predictor = Predictor(package, backend=backend, topk=len(LABELS), threads=2, channels="RGB")
    pictures = photos(200)
    alone = [scores(predictor(picture)) for picture in pictures]
    apart = min(np.abs(a - b).max() for a, b in zip(alone, alone[1:]))
    assert apart > 1e-4, "equal answers would hide an exchange"
    wrong = []

    def ask(number: int) -> None:
        """Every way in, from different threads at once."""
        order = [(n * 7 + number * 31) % 200 for n in range(200)]
        mine = [pictures[n] for n in order]
        if number == 0:
            got = [scores(a) for a in predictor.stream(mine, batch_size=4)]
        elif number == 1:
            got = [scores(a) for a in predictor(mine)]
        elif number == 2:
            tensors = np.stack([predictor.preprocess(picture) for picture in mine])
            got = [row for at in range(0, 200, 8) for row in predictor.probabilities(tensors[at : at + 8])]
        else:
            got = [scores(predictor(picture)) for picture in mine]
        wrong.extend(n for n, values in zip(order, got) if np.abs(values - alone[n]).max() > 1e-5)

    in_threads(8, ask)
    assert wrong == []


class Counting:
    """An engine that counts the calls inside it."""

    def __init__(self, seconds: float = 0.0, opened: list | None = None):
        self.seconds, self.inside, self.opened, self.calls = seconds, 0, opened, 0
        if opened is not None:
            opened.append(self)

    def __call__(self, batch):
        self.inside += 1
        self.calls += 1
        assert self.inside == 1, "an engine serves one call at a time"
        time.sleep(self.seconds)
        self.inside -= 1
        return batch

    def another(self):
        return Counting(self.seconds, self.opened)


def test_a_lone_caller_keeps_the_wide_engine_and_several_get_lanes():
    wide, lanes = Counting(0.002), []
    pool = EnginePool(wide, lambda: wide, lambda: Counting(0.002, lanes), limit=3)
    for number in range(20):
        pool(number)
    assert wide.calls == 20 and not lanes
    in_threads(8, lambda number: [pool(number) for _ in range(20)])
    assert len(lanes) == 3 and sum(lane.calls for lane in lanes) > 100
    assert wide.calls + sum(lane.calls for lane in lanes) == 20 + 160


def test_without_lanes_callers_that_meet_share_one_thread():
    """Paddle's engines keep threads for each thread that calls them; eight sets of them spin in each other's way."""
    callers: list[int] = []

    def wide(batch):
        callers.append(threading.get_ident())
        time.sleep(0.002)
        return batch

    pool = EnginePool(wide, lambda: wide, None, limit=4)
    assert [pool(number) for number in range(3)] == [0, 1, 2] and set(callers) == {threading.get_ident()}
    callers.clear()
    answers: dict[int, list] = {}
    in_threads(8, lambda number: answers.update({number: [pool((number, i)) for i in range(20)]}))
    assert answers == {number: [(number, i) for i in range(20)] for number in range(8)}
    assert len(callers) == 160 and max(map(callers.count, set(callers))) > 150, "the first may come before they meet"


def test_who_came_first_is_answered_first():
    """The one who has just been answered has the lock, and would take the engine again before the others wake."""
    order: list[int] = []

    def wide(number):
        order.append(number)
        time.sleep(0.002)

    pool = EnginePool(wide, lambda: wide, None, limit=4)
    in_threads(3, lambda number: [pool(number) for _ in range(40)])
    all_three = order[order.index(2) : 100]
    assert max(len(list(group)) for _, group in itertools.groupby(all_three)) <= 3
    assert min(all_three.count(number) for number in range(3)) > len(all_three) / 5


def test_a_predictor_goes_with_its_last_reference(package):
    predictor = Predictor(package, "onnxruntime")
    engine = weakref.ref(predictor.engines.wide)
    gc.disable()
    try:
        del predictor
        assert engine() is None
    finally:
        gc.enable()


def test_a_lane_that_does_not_open_leaves_the_others_to_answer(caplog):
    def refuse():
        raise UserError("no memory")

    wide = Counting(0.001)
    pool = EnginePool(wide, lambda: wide, refuse, limit=4)
    in_threads(4, lambda number: [pool(number) for _ in range(10)])
    assert wide.calls == 40 and "no memory" in caplog.text


def test_a_package_of_another_folder_has_its_own_openvino_engine(package, tmp_path):
    """Paddle's OpenVINO engine keeps compiled models by process: two of one file ended it."""
    other = make_package(network(2), PackageSpec(name="x", ops=OPS, labels=LABELS, to=["pdmodel"]), tmp_path / "o")
    first, second = Predictor(package, "openvino"), Predictor(package, "openvino")
    third = Predictor(other, "openvino")
    picture = cv2.imencode(".png", photos(1)[0])[1].tobytes()
    before = first(picture).scores
    assert second(picture).scores == before and third(picture).scores != before
    del second
    assert first(picture).scores == before
    expected = Predictor(other, "paddle")(picture).scores
    assert np.allclose(third(picture).scores, expected, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_answers_or_refuses(package):
    text = f"""
        import os, signal, sys
        import numpy as np
        from ppmobilenet.field.predictor import Predictor
        from ppmobilenet.field import backends
        from ppmobilenet.field.package import open_package
        from ppmobilenet.errors import UserError
        picture = np.arange(36 * 40 * 3).reshape(36, 40, 3).astype(np.uint8)
        names = backends.usable(open_package({str(package)!r}))
        predictors = {{name: Predictor({str(package)!r}, name, threads=2, channels="RGB") for name in names}}
        before = {{name: predictor(picture).scores for name, predictor in predictors.items()}}
        for name, predictor in predictors.items():
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                signal.alarm(200)
                try:
                    same = np.allclose(predictor(picture).scores, before[name], atol=1e-5)
                    print(name, "child", "same" if same else "other", flush=True)
                except UserError as error:
                    print(name, "child", error.message, flush=True)
                os._exit(0)
            print(name, "status", os.waitpid(child, 0)[1], flush=True)
            assert predictor(picture).scores == before[name]
    """
    done = run_python(text, HOME=os.path.expanduser("~"))
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    names = {line.split()[0] for line in said}
    assert {"paddle", "onnxruntime", "openvino"} <= names
    for name in names:
        assert f"{name} status 0" in said
        if name in ("openvino", "paddle"):
            assert any(line.startswith(f"{name} child") and "before this process was forked" in line for line in said)
        else:
            assert f"{name} child same" in said


# ---------------------------------------------------------------------------------------------------------------------
# streams


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_answer_does_not_wait_for_the_next_photo(package, batch_size, backend):
    predictor = Predictor(package, backend, threads=2, channels="RGB")
    asked, gave = [], threading.Event()

    def camera():
        for number, picture in enumerate(photos(5)):
            asked.append(number)
            yield picture
            assert gave.wait(60), "the next frame comes only when this one was answered"
            gave.clear()

    for number, answer in enumerate(predictor.stream(camera(), batch_size=batch_size)):
        assert answer.source == f"array {number}" and asked[-1] == number
        gave.set()
    assert asked == [0, 1, 2, 3, 4]


def test_what_a_source_raises_comes_after_the_answers_before_it(package):
    def camera():
        yield from photos(3)
        raise ConnectionError("the camera is gone")

    got = []
    with pytest.raises(ConnectionError, match="camera is gone"):
        for answer in Predictor(package, "onnxruntime", channels="RGB").stream(camera()):
            got.append(answer)
    assert len(got) == 3


def test_a_stream_that_is_left_reads_no_further(package):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield photos(1)[0]

    answers = Predictor(package, "onnxruntime", threads=2, channels="RGB").stream(endless())
    next(answers)
    answers.close()
    count = len(read)
    time.sleep(0.1)
    assert len(read) <= count + 1 < 20


# ---------------------------------------------------------------------------------------------------------------------
# channels


def test_arrays_say_their_channels(package, caplog):
    from PIL import Image

    rgb = photos(1)[0]
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    png = cv2.imencode(".png", bgr)[1].tobytes()
    predictor = Predictor(package, "onnxruntime", channels="BGR")
    right = predictor(png).scores
    assert predictor(bgr).scores == right
    assert predictor(Image.fromarray(rgb)).scores == right, "Pillow's images say it themselves"
    assert predictor(rgb, channels="RGB").scores == right
    assert [a.scores for a in predictor.stream([rgb], channels="RGB")] == [right]
    assert [a.scores for a in predictor(np.stack([bgr, bgr]))] == [right, right]
    assert np.array_equal(predictor.preprocess(bgr), predictor.preprocess(rgb, channels="RGB"))
    assert predictor(rgb).scores != right and caplog.text == ""
    silent = Predictor(package, "onnxruntime")
    assert silent(rgb).scores == right and silent(rgb).scores == right
    assert caplog.text.count("channels='BGR'") == 1, "said once: nothing else could show the mistake"
    with pytest.raises(UserError, match="channels 'bgr'(.|\n)*RGB, BGR(.|\n)*did you mean 'BGR'"):
        Predictor(package, "onnxruntime", channels="bgr")


def test_channels_are_turned_to_what_the_package_decodes_to():
    """Also where its DecodeImage keeps BGR."""
    rgb, seen = photos(1)[0], []
    for to_rgb, expected in ((True, rgb), (False, rgb[:, :, ::-1])):
        ops = [{"DecodeImage": {"to_rgb": to_rgb}}]
        classifier = Classifier(ops, run=seen.append, channels="RGB")
        assert np.array_equal(classifier.preprocess(rgb), expected)
        assert np.array_equal(classifier.preprocess(rgb[:, :, ::-1], channels="BGR"), expected)
        png = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
        assert np.array_equal(classifier.preprocess(png), expected)


# ---------------------------------------------------------------------------------------------------------------------
# what does not fit


@pytest.mark.parametrize("backend", ["paddle", "openvino", "onnxruntime"])
def test_an_input_that_does_not_fit_is_refused_alike(package, backend):
    """Paddle's OpenVINO engine gave the answer before once more."""
    predictor = Predictor(package, backend)
    good = np.zeros((1, 3, 32, 32), np.float32)
    assert predictor.probabilities(good).shape == (1, len(LABELS))
    for bad in (good[0], good.astype("float64"), good[:, :1], good[:, :, :16], good[:0], good.tolist()):
        with pytest.raises(UserError, match=r"the model was given(.|\n)*float32 \[N, 3, 32, 32\]"):
            predictor.probabilities(bad)


@pytest.mark.parametrize("backend, file", [("paddle", "inference.json"), ("onnxruntime", "inference.onnx")])
def test_a_model_that_an_engine_refuses_is_told_in_our_words(package, tmp_path, backend, file):
    """A folder by PaddleClas has no sums to find the damage before."""
    copy = shutil.copytree(package, tmp_path / "copy")
    shutil.rmtree(copy / "golden")
    (copy / "package.json").unlink()
    (copy / file).write_bytes((copy / file).read_bytes()[:2000])
    with pytest.raises(UserError, match=rf"{file}: .*cannot open the model: .+\n  what to do:"):
        Predictor(copy, backend)


def test_photos_that_preprocessing_leaves_of_different_sizes(tmp_path):
    folder = make_package(
        network(1),
        PackageSpec(
            name="x",
            ops=[{"ResizeImage": {"resize_short": 32}}, {"NormalizeImage": {"order": ""}}],
            labels=LABELS,
            photos=[cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()],
            to=["inference"],
        ),
        tmp_path / "p",
    )
    predictor = Predictor(folder, "paddle", channels="RGB")
    shape = predictor.package.meta["input"]["shape"][2:]
    fits, not_so = np.zeros((*shape, 3), np.uint8), np.zeros((32, 99, 3), np.uint8)
    for size in (1, 3):
        answers = predictor([fits, not_so, fits], batch_size=size)
        assert [isinstance(a, Failure) for a in answers] == [False, True, False]
    with pytest.raises(DataError, match="preprocessing made"):
        predictor(not_so)


# ---------------------------------------------------------------------------------------------------------------------
# machines


def test_only_the_forms_that_were_copied_answer(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path / "cache"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("package.json", "inference.onnx"):
        shutil.copy(package / name, copy)
    predictor = Predictor(copy)
    assert predictor.backend == "onnxruntime"
    assert len(predictor(photos(1)[0], channels="RGB").scores) == 5
    (copy / "inference.onnx").unlink()
    with pytest.raises(DamagedFileError, match=r"onnxruntime: inference\.onnx missing from the package"):
        Predictor(copy)


def test_auto_takes_the_next_engine_when_its_choice_does_not_start(package, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path))

    from ppmobilenet.field.engines import onnx_runtime

    def refuse(engine):
        raise UserError("no such instruction")

    monkeypatch.setattr(onnx_runtime.OnnxRuntime, "_open", refuse)
    monkeypatch.setattr(backends, "fastest", lambda *_: "onnxruntime")
    assert Predictor(package).backend in ("openvino", "paddle")
    assert "a faster engine does not start: onnxruntime: no such instruction" in caplog.text


@pytest.mark.parametrize("home", ["a file in its place", "none"])
def test_no_cache_is_needed_and_nothing_is_left(package, tmp_path, home):
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    text = f"""
        import os
        import numpy as np
        if {home == "none"}:
            import pwd
            def nobody(uid): raise KeyError(uid)
            pwd.getpwuid = nobody
        from ppmobilenet.field.predictor import Predictor
        for backend in ("openvino", "auto"):
            predictor = Predictor({str(package)!r}, backend, channels="RGB")
            print(len(predictor(np.zeros((32, 32, 3), np.uint8)).scores))
        print(sum(name.startswith("ppmobilenet-openvino-") for name in os.listdir({str(tmp_path / "tmp")!r})))
    """
    elsewhere = {"PPMOBILENET_HOME": str(tmp_path / "file")} if home != "none" else {"PPMOBILENET_HOME": ""}
    done = run_python(text, TMPDIR=str(tmp_path / "tmp"), **elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "5", "1"]
    assert not [p for p in (tmp_path / "tmp").iterdir() if p.name.startswith("ppmobilenet")]


def test_the_choice_is_kept_where_there_is_a_cache(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path))
    assert Predictor(package, threads=1).backend in backends.BACKENDS
    assert json.loads(Path(tmp_path / "backends.json").read_text())
