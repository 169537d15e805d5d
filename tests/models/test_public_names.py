"""ppmobilenet.models as people build with it: public names, and the training script of docs/models.md."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest

import ppmobilenet
from ppmobilenet import create_model, list_models, load_weights, models

BLOCK = re.compile(r"<!-- run: python -->\n```python\n(.*?)```", re.DOTALL)
# two colours that a network tells apart within a few steps; and what the script made, for the test to look at
PHOTOS = """labels = paddle.arange(64).reshape([64, 1]) % 2
photos = labels.astype("float32").reshape([64, 1, 1, 1]) * paddle.ones([64, 3, 32, 32])"""
CHECK = """
net.train()
print("loop", float(paddle.nn.functional.cross_entropy(net(photos), labels)))
net = model.network
net.train()
print("model", float(paddle.nn.functional.cross_entropy(net(photos), labels)))
"""


def test_every_variant_and_block_is_a_public_name():
    assert set(list_models()) <= set(models.__all__) <= set(dir(models))
    for name in models.__all__:
        thing = getattr(models, name)
        assert (getattr(thing, "func", thing)).__doc__, name
    assert isinstance(models.MobileNetV2_x0_25(class_num=10), models.MobileNetV2)
    assert ppmobilenet.MobileNetV2 is models.MobileNetV2 and ppmobilenet.MobileNetV1 is models.MobileNetV1
    with pytest.raises(AttributeError, match="no attribute 'MobileNetV9'"):
        models.MobileNetV9  # noqa: B018


def test_the_names_import_paddle_at_first_use_only():
    code = "import sys, ppmobilenet, ppmobilenet.models; assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["MobileNetV1_x0_25", "MobileNetV2_x0_25"])
def test_a_network_is_built_as_often_as_one_likes(name):
    first, second = getattr(models, name)(class_num=3), getattr(models, name)(class_num=3)
    assert [p.name for p in first.parameters()] == [p.name for p in second.parameters()]
    assert list(first.state_dict()) == list(create_model(name, class_num=3).state_dict())
    x = paddle.rand([2, 3, 32, 32])
    first.eval()
    for twin in (copy.deepcopy(first), second):
        twin.set_state_dict(pickle.loads(pickle.dumps({k: v.numpy() for k, v in first.state_dict().items()})))
        twin.eval()
        assert np.array_equal(twin(x).numpy(), first(x).numpy())


def test_which_family_a_block_is_of():
    first = models.ConvBNLayer(3, 3, 8, 1, 1, name="of_v1")
    second = models.mobilenet_v2.ConvBNLayer(3, 3, 8, 1, 1, name="of_v2")
    assert "conv.weight" in first.state_dict() and "_conv.weight" in second.state_dict()
    ten = paddle.full([1, 8, 4, 4], 10.0)
    for layer in (first, second):
        for part in layer.sublayers():
            if isinstance(part, paddle.nn.Conv2D):
                part.forward = lambda x: ten
        layer.eval()
    assert float(first(ten).max()) > 9.9 and float(second(ten).max()) == 6.0  # ReLU, ReLU6


@pytest.mark.parametrize("page", ["docs/models.md", "docs/ch/models.md"])
def test_the_pages_training_script_learns(repo, tmp_path, page):
    code = BLOCK.search((repo / page).read_text(encoding="utf-8"))[1]
    if page != "docs/models.md":
        plain = re.compile(r" *#.*")
        assert plain.sub("", code) == plain.sub(
            "", BLOCK.search((repo / "docs/models.md").read_text(encoding="utf-8"))[1]
        )
        return
    code, found = re.subn(r"^photos, labels = .*$", PHOTOS, code, flags=re.MULTILINE)
    assert found == 1
    script = tmp_path / "own_script.py"
    script.write_text(f"import paddle\npaddle.seed(1)\n{code}\n{CHECK}", encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("loop ", "model ")))
    assert float(losses["loop"]) < 1.0 and float(losses["model"]) < 2.0, losses  # chance: 2.3
    load_weights(models.MobileNetV2_x0_25(class_num=10), tmp_path / "mine.pdparams")
