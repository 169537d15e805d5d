"""``ppmobilenet serve``: answers over HTTP, what it refuses, and its page in a real browser with a camera."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, Browser

from ppmobilenet import Predictor
from ppmobilenet.field.occlusion import occlusion

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
LIMITS = ["--max-mb", "0.5", "--max-megapixels", "1", "--timeout", "20"]


class Server:
    """``ppmobilenet serve`` in a process of its own, on a free port."""

    def __init__(self, *words: object):
        command = [sys.executable, "-m", "ppmobilenet.cli", "serve", *map(str, words), "--port", "0"]
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            # a test run in a shell's background ignores Ctrl-C, and its children with it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        line = self.process.stderr.readline()
        found = re.search(r"http://([^:]+):(\d+)/", line)
        assert found, line + self.process.stderr.read()
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://127.0.0.1:{self.port}/"

    def ask(self, body: bytes = b"", kind: str = "image/jpeg", path: str = "/predict", method: str = "POST"):
        """Return (status, what was answered)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            reply = connection.getresponse()
            text = reply.read()
        finally:
            connection.close()
        is_json = "json" in reply.headers.get("Content-Type", "")
        return reply.status, json.loads(text) if is_json else text.decode()

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        said = self.process.stderr.read()  # to its end; communicate would lose what readline has taken ahead
        return self.process.wait(timeout=30), said


@pytest.fixture(scope="module")
def start():
    """Starts servers, of which none outlives the tests, whatever they find."""
    started = []

    def begin(*words: object) -> Server:
        started.append(Server(*words))
        return started[-1]

    yield begin
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)  # its workers, too
        server.process.wait()


@pytest.fixture(scope="module")
def server(made, start):
    running = start(made / "sure", "--backend", "onnxruntime", "--topk", 3, *LIMITS)
    yield running
    code, said = running.stop()
    assert code == 130 and said.strip() == "stopped", said


@pytest.fixture(scope="module")
def predictor(made):
    return Predictor(made / "sure", backend="onnxruntime", topk=3)


def form(photo: bytes, name: str = "file", filename: str | None = "a.jpg") -> tuple[bytes, str]:
    head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--xx\r\n" + head.encode() + b"\r\n\r\n" + photo + b"\r\n--xx--\r\n", "multipart/form-data; boundary=xx"


def same(answer: dict, expected) -> bool:
    return (answer["class_ids"], answer["label_names"]) == (expected.class_ids, expected.label_names) and np.allclose(
        answer["scores"], expected.scores, atol=1e-4
    )


def test_a_photo_is_answered_however_it_is_sent(server, predictor, made):
    photo = (made / "photos" / "2 300x200.jpg").read_bytes()
    expected, text = predictor(photo), base64.b64encode(photo).decode()
    for body, kind in (
        form(photo),
        (photo, "image/jpeg"),
        (photo, "application/x-www-form-urlencoded"),  # curl --data-binary @photo.jpg
        (photo, None),
        (json.dumps({"image": text}).encode(), "application/json"),
        (json.dumps({"image": f"data:image/jpeg;base64,{text}"}).encode(), "application/json"),
    ):
        status, answer = server.ask(body, kind)
        assert status == 200 and same(answer, expected) and answer["unsure"] == expected.unsure, answer
        assert answer["milliseconds"] > 0


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json"])
def test_a_photo_is_looked_at_where_it_holds_up_nobody(predictor, made, monkeypatch, kind):
    """To unpack it and to read its header, too, is the desk's threads' and within their time, not the server's loop."""
    from ppmobilenet.field.serving import app
    from ppmobilenet.field.serving.limits import Limits

    photo, threads, said = (made / "photos" / "2 300x200.jpg").read_bytes(), [], []

    class Noting(Limits):
        def check(self, photo):
            threads.append(threading.current_thread())
            super().check(photo)

    def unpack(text: str, **_) -> bytes:
        threads.append(threading.current_thread())
        return photo

    async def receive():
        return {"type": "http.request", "body": photo if kind == "image/jpeg" else b'{"image": "AAAA"}'}

    async def send(message):
        said.append(message)

    monkeypatch.setattr(app.base64, "b64decode", unpack)
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "root_path": ""}
    scope["headers"] = [(b"content-type", kind.encode())]
    asyncio.run(app.make_app(predictor, Noting())(scope, receive, send))
    assert said[0]["status"] == 200
    assert len(threads) == (1 if kind == "image/jpeg" else 2) and threading.main_thread() not in threads


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BAD = [
    (b"", "image/jpeg", 400, "empty"),
    (b"<html>404</html>", "image/png", 400, "a web page or text"),
    (b"\xff\xd8\xff\xe0 no jpeg", "image/jpeg", 400, "not a photo"),
    (png_header(30_000, 30_000), "image/png", 413, "30000x30000 pixels"),
    (bytes(600_000), "image/png", 413, "larger than 500000 bytes"),
    (*form(bytes(600_000)), 413, "larger than 500000 bytes"),
    (*form(b"hello", name="picture"), 400, "the form holds picture"),
    (*form(b"http://127.0.0.1/a.jpg", "file", None), 400, "a URL is not fetched"),
    (b"no border", "multipart/form-data", 400, "boundary"),
    (b'{"image": "http://127.0.0.1/a.jpg"}', "application/json", 400, "a URL is not fetched"),
    (b'{"url": "file:///etc/passwd"}', "application/json", 400, "a URL is not fetched"),
    (b'{"image": "@@@@"}', "application/json", 400, "no base64"),
    (b'{"image": 3}', "application/json", 400, "no text named image"),
    (b"[" * 900, "application/json", 400, "no JSON"),
    (b"[" * 50_000, "application/json", 400, "more than a photo"),
    (b'{"image": [' + b"{}," * 50_000 + b"1]}", "application/json", 400, "more than a photo"),
    (b"\xff", "application/json", 400, "no JSON"),
    (b"a=b", "application/x-www-form-urlencoded", 415, "does not come as application/x-www-form-urlencoded"),
    (b"a=b", None, 415, "without a Content-Type"),
    (b"hello there", "image/jpeg", 400, "begins with 'hello th'"),
]


@pytest.mark.parametrize("body, kind, status, message", BAD, ids=[f"{row[2]} {row[3]}" for row in BAD])
def test_bad_input_is_refused_in_our_words(server, body, kind, status, message):
    found, said = server.ask(body, kind)
    assert found == status and message.lower() in said["error"].lower(), said
    assert server.ask(path="/healthz", method="GET")[1]["status"] == "ok"


def test_other_paths_and_parameters_are_refused_too(server):
    assert server.ask(b"x", path="/predict?map=perhaps")[0] == 422
    status, said = server.ask(path="/predict", method="GET")
    assert status == 405 and f"curl -F file=@photo.jpg {server.url}predict" in said["what_to_do"]
    assert server.ask(path="/etc/passwd", method="GET")[0] == server.ask(path="/docs", method="GET")[0] == 404


def test_a_truncated_photo_costs_no_other(server, predictor, made):
    photo = (made / "photos" / "0 100x80.jpg").read_bytes()
    assert server.ask(photo[:-200])[0] in (200, 400)  # some decoders fill in what is missing
    assert server.ask(photo[:300])[0] == 400
    assert same(server.ask(photo)[1], predictor(photo))


def test_openapi_tells_every_way_to_send_a_photo(server):
    described = server.ask(path="/openapi.json", method="GET")[1]
    predict = described["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json", "image/*"}
    assert {"400", "408", "413", "415", "422", "503"} <= set(predict["responses"])
    assert set(described["paths"]) == {"/predict", "/healthz"}


def test_the_map_is_of_the_answer(server, predictor, made):
    photo = (made / "photos" / "2 300x200.jpg").read_bytes()
    status, answer = server.ask(photo, path="/predict?map=true")
    assert status == 200 and same(answer, predictor(photo))
    seen, fall, best = occlusion(predictor, photo)
    assert best == answer["class_ids"][0] and fall.shape == (7, 7) and fall.max() == 1 and fall.min() >= 0
    pictures = [
        cv2.imdecode(np.frombuffer(base64.b64decode(answer[key].partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)
        for key in ("seen", "heat")
    ]
    assert pictures[0].shape == (32, 32, 3) and pictures[1].shape == (32, 32, 4)
    assert np.abs(pictures[0][:, :, ::-1].astype(int) - seen).mean() < 12


def test_a_map_shows_where_the_answer_is():
    """A network that looks at one corner."""

    class Corner:
        decision = None

        class package:
            ops = [{"DecodeImage": {}}, {"ResizeImage": {"size": 70}}, {"ToCHWImage": {}}]

        @staticmethod
        def probabilities(batch):
            share = batch[:, :, :20, 50:].astype(np.float32).std(axis=(1, 2, 3)) / 130
            return np.stack([share, 1 - share], axis=1)

    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (70, 70, 3))
    _, fall, best = occlusion(Corner, cv2.imencode(".png", noise)[1].tobytes())
    assert best == 0 and fall[0:2, 5:7].mean() > 0.5 and fall[3:, :4].max() < 0.05


def test_it_listens_on_this_machine_alone_unless_told(made, server, start):
    assert server.host == "127.0.0.1"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if Path("/proc/net/tcp").exists() else ():
        address, state = line.split()[1], line.split()[3]
        if state == "0A" and int(address.split(":")[1], 16) == server.port:
            assert address.split(":")[0] == "0100007F"
    everywhere = start(made / "usual", "--backend", "onnxruntime", "--host", "0.0.0.0")
    assert everywhere.ask(path="/healthz", method="GET")[0] == 200
    code, said = everywhere.stop()
    assert "there is no password" in said and "https" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "'nowhere' is not a folder"),
        (["PACKAGE", "--host", "256.1.2.3"], "cannot listen there"),
        (["PACKAGE", "--port", "TAKEN"], "another --port"),
        (["PACKAGE", "--certificate", "a.pem"], "both a certificate and its key"),
        (["PACKAGE", "--port", "70000"], "0 to 65535"),
    ],
)
def test_mistakes_are_said(made, capsys, words, message):
    from ppmobilenet import cli

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"PACKAGE": str(made / "usual"), "TAKEN": str(taken.getsockname()[1])}
        words = [names.get(word, word) for word in words]
        assert cli.main(["serve", *words, *(() if words[0] == "nowhere" else ("--backend", "onnxruntime"))]) == 2
    assert message in capsys.readouterr().err


def test_a_full_line_and_a_slow_sender_are_sent_away(made, start):
    small = start(made / "usual", "--backend", "onnxruntime", "--at-once", 1, "--waiting", 1, "--timeout", "1.5")
    photo = (made / "photos" / "0 100x80.jpg").read_bytes()
    slow = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(2)]
    for connection in slow:  # they take both places, and send no photo
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9999\r\n\r\n"
        connection.sendall(head + b"xx")
    time.sleep(0.3)
    status, said = small.ask(photo)
    assert status == 503 and "2 photos are in work or in line" in said["error"] and said["what_to_do"]
    for connection in slow:
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        connection.close()
    assert small.ask(photo)[0] == 200
    small.stop()


def test_several_workers_answer_alike(made, predictor, start):
    photo = (made / "photos" / "2 300x200.jpg").read_bytes()
    running = start(made / "sure", "--backend", "onnxruntime", "--topk", 3, "--workers", 2)
    status, answer = running.ask(photo)
    assert status == 200 and same(answer, predictor(photo))
    running.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    window = Browser(
        tmp_path_factory.mktemp("profile"), "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"
    )
    yield window
    window.close()


TEXT = "document.getElementById({!r}).textContent"


@pytest.mark.parametrize("width, dark", [(400, False), (400, True), (1400, False), (1400, True)])
def test_the_page_in_a_browser(server, predictor, made, browser, width, dark, tmp_path):
    """A photo, a map, a camera, a bad file; nothing is wider than the window, and no word on the console."""
    path = made / "photos" / "2 300x200.jpg"
    browser.console.clear()
    browser.open(server.url, width, dark)
    browser.wait(f"{TEXT.format('model')}.includes('7 classes; unsure below 30.0\\u00a0%')")
    expected = predictor(path)
    browser.choose("#file", path)
    browser.wait("document.querySelectorAll('#answers li').length === 3")
    shown = browser.value("[...document.querySelectorAll('#answers li')].map(each => each.textContent)")
    assert shown == [f"{name}{100 * score:.1f}\u00a0%" for name, score in zip(expected.label_names, expected.scores)]
    best = "unsure" if expected.unsure else expected.label_names[0]
    assert browser.value(TEXT.format("best")).strip().startswith(best)
    browser.value("document.getElementById('where').click()")
    browser.wait("!document.getElementById('map').hidden && document.getElementById('heat').naturalWidth === 32")
    assert browser.value("document.documentElement.scrollWidth") <= width
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(16, 19, 23)" if dark else "rgb(246, 247, 249)")
    if folder := os.environ.get("PPMOBILENET_PICTURES"):
        browser.picture(Path(folder) / f"serve_{width}_{'dark' if dark else 'light'}.png")

    browser.value("document.getElementById('camera').click()")
    browser.wait(f"{TEXT.format('facts')}.includes('answers a second') && !{TEXT.format('facts')}.includes(' 0.0 ')")
    assert browser.value("document.getElementById('video').videoWidth") > 0
    assert browser.value("document.querySelectorAll('#answers li').length") == 3
    browser.value("document.getElementById('camera').click()")
    browser.wait("document.getElementById('video').hidden")
    assert browser.console == []

    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>404</html>")
    browser.choose("#file", bad)
    browser.wait(f"{TEXT.format('error')}.includes('a web page or text')")
    assert browser.value("document.querySelectorAll('#answers li').length") == 0


@pytest.mark.slow
def test_thirty_two_clients(made, shared, start, capsys):
    """2,000 photos, one in fifty of them bad: every answer right, every bad one refused; says how long it took."""
    package = Path(os.environ.get("PPMOBILENET_SERVED", made / "usual"))
    photos = [path.read_bytes() for path in sorted((shared / "data/clothing/val").rglob("*.jpg"))]
    alone = Predictor(package, backend="onnxruntime", topk=3)
    expected = [alone(photo) for photo in photos]
    bad = [b"<html>404</html>", photos[0][:500], b"", png_header(60_000, 60_000), b"GIF89a"]
    running = start(package, "--backend", "onnxruntime", "--topk", 3, "--timeout", 60)

    def ask(number: int) -> tuple[bool, float]:
        start = time.monotonic()
        if number % 50 == 49:
            status, answer = running.ask(*form(bad[number // 50 % len(bad)]))
            right = status in (400, 413) and bool(answer["error"])
        else:
            status, answer = running.ask(*form(photos[number % len(photos)]))
            right = status == 200 and same(answer, expected[number % len(photos)])
        return right, time.monotonic() - start

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        found = list(clients.map(ask, range(2000)))
    seconds = time.monotonic() - start
    code, said = running.stop()
    assert all(right for right, _ in found), f"{sum(not right for right, _ in found)} wrong; {said}"
    p50, p90, p99 = np.percentile([1000 * took for _, took in found], [50, 90, 99])
    with capsys.disabled():
        print(
            f"\n32 clients, 2000 photos, 40 bad: {2000 / seconds:.0f} a second; milliseconds: median {p50:.0f}, "
            f"90 % {p90:.0f}, 99 % {p99:.0f}, worst {1000 * max(took for _, took in found):.0f}"
        )
