"""Files that want to run code or to take memory and time without end: only our error, at once, and nothing happens."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import hostile
import numpy as np
import pytest
from test_torch_files import legacy_file

from ppmobilenet.errors import UserError
from ppmobilenet.weights.files import read_pickle, read_weights
from ppmobilenet.weights.inspecting import inspect_weights
from ppmobilenet.weights.writing import write_weights

MEMORY = 400 << 20
SECONDS = 20  # on a machine that does other things too; alone, the slowest takes about one
MUTATIONS = 2000

# what nothing that is read may cause
FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "exec", "pickle.find_class",
    "socket.connect", "os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "webbrowser.open", "ctypes.dlopen",
}  # fmt: skip
_watching: list[str] | None = None


def _audit(event: str, args: tuple) -> None:
    if _watching is not None:
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if event in FORBIDDEN or writes:
            _watching.append(f"{event} {args!r:.100}")


sys.addaudithook(_audit)
"".encode("cp437")  # zipfile imports this codec at its first use, which is an event of its own


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """The forbidden events that reading caused; it may take no more than MEMORY on top of what is there."""
    global _watching
    resource = pytest.importorskip("resource", reason="memory cannot be limited on this system")
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux tells a process's memory in /proc")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    _watching = events = []
    try:
        yield events
    finally:
        _watching = None
        resource.setrlimit(resource.RLIMIT_AS, before)


def write_case(folder: Path, name: str, file: str, content: bytes) -> Path:
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    if name in hostile.PROGRAM_BESIDE:
        beside, program = hostile.PROGRAM_BESIDE[name]
        (folder / beside).write_bytes(program)
    return path.parent if path.parent != folder else path


CANARY = Path(tempfile.gettempdir()) / f"ppmobilenet-canary-{os.getpid()}"
NAMES = tuple(hostile.corpus(CANARY))


def test_the_corpus_is_large():
    assert len(NAMES) >= 100


@pytest.mark.parametrize("name", NAMES)
def test_hostile_file(tmp_path, watched, name):
    global _watching
    canary = CANARY
    _watching = None
    path = write_case(tmp_path, name, *hostile.corpus(canary)[name])
    _watching = watched
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert len(str(caught.value)) < 2000
    if path.suffix == ".pdparams":
        with contextlib.suppress(UserError):  # what is harmless there may be no weights
            read_pickle(path)
    assert time.process_time() - start < SECONDS
    assert watched == [] and not canary.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os.system", "the global 'os.system'"),
        ("STACK_GLOBAL", "the global 'os.system'"),
        ("builtins.eval", "builtins.eval"),
        ("copyreg._reconstructor", "the global 'copyreg._reconstructor'"),
        ("torch: hub", "the global 'torch.hub.load'"),
        ("INST", "instruction 0x69"),
        ("zip bomb", "zip bomb"),
        ("nested 100000 deep", "deep"),
        ("list in itself", "holds itself"),
    ],
)
def test_the_message_names_the_offence(tmp_path, name, words):
    path = write_case(tmp_path, name, *hostile.corpus(CANARY)[name])
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        read_weights(path)


def good_files(folder: Path) -> dict[str, bytes]:
    """Small good files of every kind; each name says how it is to be written."""
    rng = np.random.default_rng(0)
    keys = [f"blocks.{i}.{part}" for i in range(2) for part in ("depthwise_conv", "pointwise_conv")]
    state = {"conv.conv.weight": rng.normal(size=(4, 3, 3, 3)).astype("f4")}
    for key in keys:
        shape = (4, 1, 3, 3) if "depth" in key else (4, 4, 1, 1)
        state[f"{key}.conv.weight"] = rng.normal(size=shape).astype("f4")
        state[f"{key}.bn._mean"] = rng.normal(size=4).astype("f2")
    good = {f"p{n}.pdparams": pickle.dumps({**state, "epoch": np.float64(3), "note": ["a", {}]}, n) for n in (2, 4, 5)}
    for extension in (".pdparams", ".npz", ".safetensors"):
        good[f"ours{extension}"] = write_weights(state, folder / f"good{extension}").read_bytes()
    deflated = io.BytesIO()
    np.savez_compressed(deflated, **state)
    good["deflated.npz"] = deflated.getvalue()
    good["legacy.pth"] = legacy_file()
    good["zip.pth"] = hostile.torch_zip(
        hostile.as_weights(hostile.tensor(hostile.storage(4), 0, [2, 2], [2, 1]), 2), **{"0": b"\0" * 16}
    )
    good["lod/w"] = hostile.lod()
    good["model.pdiparams"] = hostile.lod()
    return good


PROGRAM = hostile.program("w")


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 30))):
        at, length = rng.randrange(len(data) or 1), rng.choice((1, 1, 2, 4, 8, 40))
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 1] = bytes([(data[at] if data else 0) ^ 1 << rng.randrange(8)])
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 4:
            data[at : at + length] = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * length
        elif kind == 5:
            data = data[:at] or data
        else:
            other = rng.randrange(len(data) or 1)
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def test_random_mutations_of_good_files(tmp_path, watched):
    """2000 of them, seeded: each reads, or ends with our error; nothing else happens, in bounded time and memory."""
    global _watching
    _watching = None
    good = good_files(tmp_path)
    rng = random.Random(20)
    slowest, refused = 0.0, 0
    for i in range(MUTATIONS):
        name = rng.choice(sorted(good))
        file = Path(name)
        path = tmp_path / f"m{i}" / (f"{file.parent}/{file.name}" if file.parent.name else file.name)
        path.parent.mkdir(parents=True)
        program = PROGRAM
        if name == "model.pdiparams":
            if rng.random() < 0.5:
                program = mutated(program, rng)
                path.write_bytes(good[name])
            else:
                path.write_bytes(mutated(good[name], rng))
            path.with_suffix(".pdmodel").write_bytes(program)
        else:
            path.write_bytes(mutated(good[name], rng))
        _watching, start = watched, time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inspect_weights(path.parent if file.parent.name else path)
        except UserError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {i} of {name}: {type(error).__name__}: {error}") from error
        finally:
            _watching = None
        slowest = max(slowest, time.process_time() - start)
    print(f"{refused} of {MUTATIONS} refused, slowest {slowest * 1000:.0f} ms")
    assert watched == [] and slowest < SECONDS
    assert MUTATIONS * 0.5 < refused < MUTATIONS


def test_the_good_files_are_good(tmp_path):
    for name, content in good_files(tmp_path).items():
        path = tmp_path / "good" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if name == "model.pdiparams":
            path.with_suffix(".pdmodel").write_bytes(PROGRAM)
        assert read_weights(path.parent if path.parent.name == "lod" else path), name
