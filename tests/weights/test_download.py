"""Downloading published files: a local HTTP server serves them, with the faults that networks have."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time

import pytest

from ppmobilenet import machine
from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.weights import catalog, download
from ppmobilenet.weights.files import read_weights
from ppmobilenet.weights.writing import write_weights

paddle = pytest.importorskip("paddle")
NAME = "MobileNetV1_x0_25"


class Server:
    """Serves one file under every address. ``faults`` are used up one a request, then it behaves."""

    def __init__(self, content: bytes):
        self.content, self.faults, self.requests = content, [], []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        fault = self.faults.pop(0) if self.faults else None
        body, status = self.content, 200
        if fault == "404":
            body, status = b"<html>not here</html>", 404
        elif fault == "503":
            body, status = b"busy", 503
        elif fault == "html":
            body = b"<html>please log in</html>"
        elif fault == "wrong":
            body = b"\x80\x04]q\x00."
        start = 0
        if wanted and status == 200 and fault != "no resume" and handler.headers.get("If-Range") == '"v1"':
            start, status = int(wanted[len("bytes=") : -1]), 206
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if body[:1] == b"<" else "application/octet-stream")
        if fault != "no length":
            handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("ETag", '"v1"')
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        try:
            if fault == "cut":
                handler.wfile.write(body[start : start + len(body) // 3])
            elif fault == "stall":
                handler.wfile.write(body[start : start + len(body) // 3])
                handler.wfile.flush()
                time.sleep(1.5)
            elif fault == "trickle":
                for byte in body[start : start + 15]:
                    handler.wfile.write(bytes([byte]))
                    handler.wfile.flush()
                    time.sleep(0.1)
            elif fault == "slow":
                time.sleep(0.5)
                handler.wfile.write(body[start:])
            else:
                handler.wfile.write(body[start:])
        except ConnectionError:
            pass  # the client gave up, as it should
        handler.close_connection = True


@pytest.fixture(scope="module")
def content(tmp_path_factory, repo) -> bytes:
    """The real weights where ../shared is there, as the ``.pdparams`` that is published; else initial ones."""
    from ppmobilenet.zoo import create_model

    real = repo.parent / "shared" / "weights" / f"{NAME}.npz"
    if real.is_file():
        state = read_weights(real)
    else:
        state = {key: value.numpy() for key, value in create_model(NAME).state_dict().items()}
    return write_weights(state, tmp_path_factory.mktemp("w") / "w.pdparams").read_bytes()


@pytest.fixture
def server(content, tmp_path, monkeypatch):
    server = Server(content)
    monkeypatch.setenv("PPMOBILENET_MIRROR", server.url)
    monkeypatch.setenv("PPMOBILENET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PPMOBILENET_TIMEOUT", "0.6")
    monkeypatch.delenv("PPMOBILENET_OFFLINE", raising=False)
    monkeypatch.setattr(download, "WAITS", (0.01,))
    yield server
    server.http.shutdown()
    server.http.server_close()


def leftovers() -> list[str]:
    return sorted(p.name for p in download.cache_folder("weights").iterdir() if p.suffix != ".lock")


def test_a_file_is_downloaded_once_and_then_cached(server, content):
    path = download.published_file(NAME)
    assert path.read_bytes() == content
    assert server.requests == [("/dygraph/legendary_models/MobileNetV1_x0_25_pretrained.pdparams", None)]
    assert download.published_file(NAME) == path and len(server.requests) == 1
    assert leftovers() == [path.name, f"{path.name}.sha256"]


def test_create_model_pretrained_downloads_and_loads(server):
    from ppmobilenet.zoo import create_model

    model = create_model(NAME, pretrained=True)
    arrays = read_weights(download.published_file(NAME))
    assert (model.state_dict()["fc.weight"].numpy() == arrays["fc.weight"]).all()
    other = create_model(NAME, pretrained=True, class_num=10)
    assert (other.state_dict()["conv.conv.weight"].numpy() == arrays["conv.conv.weight"]).all()
    assert len(server.requests) == 1


def test_use_ssld_asks_for_the_distilled_file(server):
    from ppmobilenet.zoo import create_model

    with pytest.raises(DamagedFileError, match="not the weights of MobileNetV1, but of MobileNetV1_x0_25"):
        create_model("MobileNetV1", pretrained=True, use_ssld=True)
    assert server.requests == [("/dygraph/legendary_models/MobileNetV1_ssld_pretrained.pdparams", None)]


@pytest.mark.parametrize("fault", ["cut", "stall", "trickle"])
def test_a_broken_download_resumes_where_it_broke(server, content, fault):
    server.faults = [fault]
    assert download.published_file(NAME).read_bytes() == content
    first, second = (wanted for _, wanted in server.requests)
    assert first is None and int(second[len("bytes=") : -1]) > 0


def test_an_interrupted_process_is_resumed_by_the_next(server, content, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 1)
    server.faults = ["cut"]
    with pytest.raises(UserError, match=r"cannot be downloaded: the connection broke after \d+ of"):
        download.published_file(NAME)
    assert download.published_file(NAME).read_bytes() == content
    assert server.requests[1][1] == f"bytes={len(content) // 3}-"


def test_a_server_that_cannot_resume_is_asked_for_all_of_it(server, content):
    server.faults = ["cut", "no resume"]
    assert download.published_file(NAME).read_bytes() == content


def test_a_busy_server_is_asked_again(server, content):
    server.faults = ["503", "503"]
    assert download.published_file(NAME).read_bytes() == content


def test_without_a_length_it_still_works(server, content):
    server.faults = ["no length"]
    assert download.published_file(NAME).read_bytes() == content


def test_not_found_is_said_at_once(server):
    server.faults = ["404"]
    with pytest.raises(UserError, match="answers 404"):
        download.published_file(NAME)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("fault", "words"), [("html", "web page instead"), ("wrong", "not kept: holds a list")])
def test_wrong_content_is_refused_and_not_kept(server, content, fault, words):
    server.faults = [fault]
    with pytest.raises(UserError, match=words):
        download.published_file(NAME)
    assert leftovers() == [] or fault == "html"
    assert download.published_file(NAME).read_bytes() == content


def test_another_networks_weights_are_refused(server):
    with pytest.raises(DamagedFileError, match="not the weights of MobileNetV1_x0_5, but of MobileNetV1_x0_25"):
        download.published_file("MobileNetV1_x0_5")
    assert leftovers() == []


def test_no_server_is_said_with_what_to_do(server, monkeypatch):
    monkeypatch.setenv("PPMOBILENET_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="no connection.*5 tries.*\n.*PPMOBILENET_MIRROR"):
        download.published_file(NAME)


def test_offline_uses_the_cache_and_nothing_else(server, monkeypatch):
    monkeypatch.setenv("PPMOBILENET_OFFLINE", "1")
    with pytest.raises(UserError, match="not in the cache, and PPMOBILENET_OFFLINE"):
        download.published_file(NAME)
    assert not server.requests
    monkeypatch.setenv("PPMOBILENET_OFFLINE", "0")
    path = download.published_file(NAME)
    monkeypatch.setenv("PPMOBILENET_OFFLINE", "1")
    assert download.published_file(NAME) == path


def test_a_changed_file_in_the_cache_is_found(server):
    path = download.published_file(NAME)
    changed = bytearray(path.read_bytes())
    changed[5000] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DamagedFileError, match="what it was when it came"):
        download.published_file(NAME)


def test_a_sha256_given_by_the_catalogue_is_enforced(server, monkeypatch):
    monkeypatch.setattr(catalog, "verified", lambda: {NAME: {"sha256": "0" * 64}})
    with pytest.raises(DamagedFileError, match="the published file's is 0000"):
        download.published_file(NAME)
    assert leftovers() == []


def test_a_file_put_there_by_hand_is_checked_at_its_first_use(server, content):
    folder = download.cache_folder("weights")
    folder.mkdir(parents=True)
    (folder / f"{NAME}_pretrained.pdparams").write_bytes(content[:-1000])
    with pytest.raises(DamagedFileError, match="ends at byte"):
        download.published_file(NAME)
    (folder / f"{NAME}_pretrained.pdparams").write_bytes(content)
    download.published_file(NAME)
    assert not server.requests and f"{NAME}_pretrained.pdparams.sha256" in leftovers()


def test_a_cache_that_cannot_be_written_is_read_and_done_without(server, content, tmp_path, monkeypatch):
    path = download.published_file(NAME)
    monkeypatch.setattr(
        machine.os, "access", lambda folder, mode: False
    )  # as on a read-only disk, for the superuser too
    assert download.published_file(NAME) == path and len(server.requests) == 1
    (path.parent / f"{path.name}.sha256").unlink()
    assert download.published_file(NAME) == path, "a file that came without its sum is checked, not recorded"
    path.write_bytes(content[:-10])
    with pytest.raises(DamagedFileError):
        download.published_file(NAME)
    path.unlink()
    elsewhere = download.published_file(NAME)
    assert elsewhere.parent != path.parent and elsewhere.read_bytes() == content and len(server.requests) == 2
    assert download.published_file(NAME) == elsewhere and len(server.requests) == 2


def test_several_processes_download_once(server, repo):
    server.faults = ["slow"]
    code = "import sys; from ppmobilenet.weights.download import published_file; published_file(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, NAME], cwd=repo) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(server.requests) == 1


def test_where_nothing_can_be_written_it_is_said(server, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file in the cache's place")
    elsewhere = download.published_file(NAME)
    assert tmp_path not in elsewhere.parents and elsewhere.is_file()
    monkeypatch.setattr(machine, "_temporary_folder", machine._temporary_folder.__wrapped__)
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path / "home"))
    with pytest.raises(UserError, match="neither the cache(.|\n)*PPMOBILENET_HOME or TMPDIR"):
        download.published_file(NAME)
