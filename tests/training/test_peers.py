"""A process that is gone is named by every other, which stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_reliability import chaos
from training_helpers import losses

from ppmobilenet.errors import LostProcess, Stopped, UserError
from ppmobilenet.training import checkpoint, disk, peers
from ppmobilenet.training.device import interface_of

REPO = Path(__file__).resolve().parents[2]
NAMES = [f"process {rank} (10.0.0.{rank}:1)" for rank in range(3)]


@pytest.fixture
def three(monkeypatch):
    """The watches of three processes in this one."""
    monkeypatch.setattr(peers, "BEAT", 0.05)
    monkeypatch.setattr(peers, "SILENCE", 0.5)
    monkeypatch.setattr(peers, "UNTIL_CLOSED", 30)
    (a, one), (b, two) = socket.socketpair(), socket.socketpair()
    for link in (a, b, one, two):
        link.settimeout(1)
    watches = [peers.Watch(rank, NAMES, links) for rank, links in enumerate([{1: a, 2: b}, {0: one}, {0: two}])]
    yield watches, (a, b, one, two)
    for watch in watches:
        watch.close("left")


def test_all_are_there(three):
    assert [watch.wait(0.8) for watch in three[0]] == [None] * 3


@pytest.mark.parametrize("word", ["", "left", "failed the disk is full", "here\nfailed the disk is full"])
def test_the_others_hear_how_one_ended(three, word):
    (first, one, two), _ = three
    one.close(word) if word else three[1][2].shutdown(socket.SHUT_RDWR)
    said = {"": f"{NAMES[1]} is gone", "left": None}.get(word, f"{NAMES[1]} stopped: the disk is full")
    assert (first.wait(1), two.wait(1)) == (said, said)


def test_the_first_is_gone(three):
    (first, one, two), _ = three
    first.close("")  # of a killed process the connections end together: no thread of it sees one end before another
    assert one.wait(1) == two.wait(1) == f"{NAMES[0]} is gone"


def test_silence(three, monkeypatch):
    (first, one, two), _ = three
    monkeypatch.setattr(peers, "_send", lambda link, word, send=peers._send: "here" in word or send(link, word))
    assert "has been silent" in first.wait(2)
    assert first.lost.startswith("process") and one.wait(2) and two.wait(2)


def test_what_paddle_raises_is_named(three, monkeypatch):
    (first, one, _), _ = three
    monkeypatch.setattr(peers, "_watch", first)
    one.close("failed no photo")
    with pytest.raises(LostProcess, match=r"process 1 \(10.0.0.1:1\) stopped: no photo; its last save stands") as lost:
        with peers.naming():
            raise RuntimeError("Connection reset by peer")
    assert lost.value.exit_code == 6 and "Global.checkpoints=auto" in str(lost.value)


def test_joining_and_a_stranger(monkeypatch):
    """Two processes find each other by a sum; somebody who connects without their number is sent away."""
    told, port = threading.Event(), []

    def add_up(values: np.ndarray, world: int) -> np.ndarray:
        if values[0]:
            port[:] = [values]
            with socket.create_connection(("127.0.0.1", int(values[0]))) as stranger:
                stranger.sendall(b"1 17\n")
            told.set()
        told.wait(10)
        return port[0]

    ended = []

    def process(rank: int) -> None:
        try:
            links = peers._joined(rank, 2, "127.0.0.1", add_up)
            watch = peers.Watch(rank, NAMES, links)
            ended.append((rank, watch.wait(0.5)))
            watch.close("left")
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    [thread.start() for thread in threads], [thread.join(20) for thread in threads]
    assert sorted(ended) == [(0, None), (1, None)]


def test_ports_that_are_closed_are_said(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", "127.0.0.1:1,127.0.0.1:2")
    with pytest.raises(UserError, match="(?s)cannot connect to each other: .*refused.*without a firewall"):
        with peers.watching(1, 2, lambda values, world: np.array([port, 1.0])):
            pass


def test_one_process_watches_nobody():
    with pytest.raises(Stopped), peers.watching(0, 1, None):
        raise Stopped("as asked")


def test_the_interface_of_an_address():
    assert interface_of("203.0.113.7") is None and interface_of("") is None and interface_of("not an address") is None
    assert sys.platform != "linux" or interface_of("127.0.0.1") == "lo"


def two_addresses(tiny_yaml: Path, out: Path, *words: str) -> list[subprocess.Popen]:
    """Start a run of two processes as two launchers on two machines would."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [one.getsockname()[1], two.getsockname()[1]]
    endpoints = [f"127.0.0.{rank + 1}:{port}" for rank, port in enumerate(ports)]
    about = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints)}
    about |= {"PADDLE_DISTRI_BACKEND": "gloo", "PADDLE_LOCAL_SIZE": "2"}
    command = [sys.executable, str(REPO / "tools/train.py"), "-c", str(tiny_yaml), "--no-report"]
    command += [word for each in (f"Global.output_dir={out}", *words) for word in ("-o", each)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **about, "PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": endpoints[rank]},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_a_killed_process_is_named_and_the_other_has_saved(tiny_yaml, tmp_path):
    """Without a save for so long: what the other has at the end, it saved when it stopped."""
    out = tmp_path / "out"
    words = "Global.epochs=90", "Optimizer.lr.learning_rate=0.002", "DataLoader.Train.sampler.batch_size=4"
    first, second = two_addresses(tiny_yaml, out, *words)
    while first.poll() is None and (not (out / "steps.csv").is_file() or len(losses(out)) < 8):
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    began = time.monotonic()
    _, said = first.communicate(timeout=60)
    assert time.monotonic() - began < 30 and first.returncode == 6
    assert said.count("127.0.0.2:") == 1 and "process 1 (127.0.0.2:" in said and "everything up to step" in said
    found = checkpoint.find("auto", out, "MobileNetV2_x0_25")
    step = disk.read_manifest(found.stem.with_name(disk.MANIFEST))["step"]
    assert step >= max(losses(out)) - 1 and f"up to step {step} is saved" in said
    second.wait()


@pytest.mark.slow
def test_chaos_of_two_machines():
    """20 times SIGKILL of one: the other ends within a minute and names it, and the next start goes on exactly."""
    assert "lost: 0, wrong: 0" in chaos("--machines", "20")
