"""Two data-parallel processes with fused operators do what one does with the whole batch."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import paddle
import pytest
from test_feature_cache import CONFIG, VIEWS

from ppmobilenet.models.zoo import create_model


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


def train(repo, data, out, processes, *overrides):
    path = out.with_suffix(".yaml")
    path.write_text(
        CONFIG.format(data=data, out=out, weights=data / "start.pdparams", train=VIEWS, views=VIEWS, kernels="auto")
    )
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir", str(out) + ".log"]
    words = ["Global.epochs=2", "Optimizer.lr.learning_rate=0.01", "Arch.freeze_norm=True", *overrides]
    done = subprocess.run(
        [*start, str(repo / "tools" / "train.py"), "-c", str(path), *(w for o in words for w in ("-o", o))],
        capture_output=True,
        text=True,
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(repo)},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return paddle.load(str(out / "latest.pdparams")), (out / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("extra", ([], ["Arch.freeze=trunk", "Arch.cache_features=True"]), ids=("all", "cached"))
def test_two_processes_are_one_with_the_whole_batch(repo, data, tmp_path, extra):
    common = ["Global.update_freq=2", *extra]
    one, text = train(repo, data, tmp_path / "one", 1, *common, "DataLoader.Train.sampler.batch_size=8")
    two, both = train(repo, data, tmp_path / "two", 2, *common, "DataLoader.Train.sampler.batch_size=4")
    for key, value in one.items():
        np.testing.assert_allclose(two[key].numpy(), value.numpy(), atol=2e-4, err_msg=key)
    threads = [re.search(r"layers fused, \w+, (\d+) thread", log) for log in (text, both)]
    if all(threads):  # the processes share the cores
        assert int(threads[1][1]) == max(1, int(threads[0][1]) // 2)
    assert "evaluated 32/32" in both
