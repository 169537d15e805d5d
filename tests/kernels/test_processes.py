"""Two data-parallel processes with fused operators do what one does with the whole batch."""

import os
import re
import socket
import subprocess
import sys

import cv2
import numpy as np
import paddle
import pytest
from test_feature_cache import CONFIG, VIEWS

from ppmobilenet.kernels import accelerate
from ppmobilenet.zoo import create_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(32):
        image = rng.integers(0, 120, (70, 66, 3))
        image[..., i % 3] += 100
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
    (folder / "list.txt").write_text("".join(f"{i}.png {i % 3}\n" for i in range(32)))
    paddle.seed(1)
    model = create_model("MobileNetV2_x0_25", class_num=3, init="kaiming_fan_out")
    paddle.save(model.state_dict(), str(folder / "start.pdparams"))
    return folder


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launchers(processes, nodes, log):
    """The words in front of the script, for each machine."""
    if processes == nodes == 1:
        return [[sys.executable]]
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    if nodes == 1:
        return [[*launch, "--log_dir", f"{log}0"]]
    together = ["--master", f"127.0.0.1:{free_port()}", "--nnodes", str(nodes)]
    return [
        [*launch, *together, "--rank", str(i), "--host", f"127.0.0.{i + 1}", "--log_dir", f"{log}{i}"]
        for i in range(nodes)
    ]


def train(repo, data, out, *overrides, processes=1, nodes=1):
    """Train through the command line and return (weights, log)."""
    path = out.with_suffix(".yaml")
    path.write_text(
        CONFIG.format(data=data, out=out, weights=data / "start.pdparams", train=VIEWS, views=VIEWS, kernels="auto")
    )
    words = ["Global.epochs=2", "Optimizer.lr.learning_rate=0.01", "Arch.freeze_norm=True", *overrides]
    script = [str(repo / "tools" / "train.py"), "-c", str(path), *(w for o in words for w in ("-o", o))]
    running = [
        subprocess.Popen(
            [*start, *script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=out.parent,
            env={**os.environ, "PYTHONPATH": str(repo)},
        )
        for start in launchers(processes, nodes, f"{out}.log")
    ]
    try:
        for process in running:
            text, _ = process.communicate(timeout=300)
            assert process.returncode == 0, text[-3000:]
    finally:
        for process in running:
            process.kill()
    return paddle.load(str(out / "latest.pdparams")), (out / "train.log").read_text(encoding="utf-8")


CACHED = pytest.param(["Arch.freeze=trunk", "Arch.cache_features=True"], id="cached", marks=pytest.mark.slow)


@pytest.mark.parametrize("extra", (pytest.param([], id="all"), CACHED))
def test_two_processes_are_one_with_the_whole_batch(repo, data, tmp_path, extra):
    common = ["Global.update_freq=2", *extra]
    one, text = train(repo, data, tmp_path / "one", *common, "DataLoader.Train.sampler.batch_size=8")
    two, both = train(repo, data, tmp_path / "two", *common, "DataLoader.Train.sampler.batch_size=4", processes=2)
    compare(two, one, data)
    threads = [re.search(r"layers fused, \w+, (\d+) thread", log) for log in (text, both)]
    if all(threads):  # the processes share the cores
        assert int(threads[1][1]) == max(1, int(threads[0][1]) // 2)
    assert "evaluated 32/32" in both


def test_two_machines_are_one_with_the_whole_batch(repo, data, tmp_path):
    """Two launchers that know each other by two addresses, as on two machines."""
    one, _ = train(repo, data, tmp_path / "one", "DataLoader.Train.sampler.batch_size=8")
    two, log = train(repo, data, tmp_path / "two", "DataLoader.Train.sampler.batch_size=4", nodes=2)
    compare(two, one, data)
    assert "2 processes" in log and "evaluated 32/32" in log and "8 photos behind each step" in log


def compare(ours, theirs, data):
    """What was learned is the same but for roundings, which the steps multiply, to 0.05 at most where it was tried."""
    start = paddle.load(str(data / "start.pdparams"))
    for key, value in theirs.items():
        learned = np.linalg.norm(value.numpy() - start[key].numpy())
        assert np.linalg.norm(ours[key].numpy() - value.numpy()) <= 0.2 * learned + 1e-6, key


def test_batch_norms_become_synchronised_ones():
    """What `Arch.use_sync_bn` does on GPUs; a CPU has no such operator, so that nothing is computed here."""
    model = create_model("MobileNetV2_x0_25", class_num=3)
    before = {key: value.numpy() for key, value in model.state_dict().items()}
    count = sum(isinstance(layer, paddle.nn.BatchNorm2D) for layer in model.sublayers())
    model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert sum(isinstance(layer, paddle.nn.SyncBatchNorm) for layer in model.sublayers()) == count == 53
    after = model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key].numpy(), value, err_msg=key)
    report = accelerate(model)
    assert not report.accelerated and "SyncBatchNorm" in report.message
