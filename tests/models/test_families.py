"""Every family through the whole kit, and one that is added from outside of the package."""

from __future__ import annotations

import json
import re

import cv2
import made_up
import numpy as np
import paddle
import pytest
from network_helpers import photos, randomise

from ppmobilenet.cli import main
from ppmobilenet.config import load_config
from ppmobilenet.errors import UserError
from ppmobilenet.models import FAMILIES, family_of, register
from ppmobilenet.paper import cost
from ppmobilenet.registry import MODELS
from ppmobilenet.report import cam, gather
from ppmobilenet.weights import layouts
from ppmobilenet.weights.convert import architecture_of
from ppmobilenet.weights.files import read_pickle
from ppmobilenet.weights.loading import load_weights
from ppmobilenet.weights.optimizer_names import automatic_names
from ppmobilenet.zoo import create_model, list_models

CLASSES = 3
CONFIG = """
Global:
  {{output_dir: {folder}/output, save_inference_dir: {folder}/package, device: cpu, epochs: 1, eval_during_train: True,
    image_shape: [3, 32, 32], cpu_kernels: "off"}}
Arch: {{name: {name}, class_num: 3}}
Loss: {{Train: [CELoss: {{weight: 1.0}}], Eval: [CELoss: {{weight: 1.0}}]}}
Optimizer:
  {{name: Momentum, lr: {{name: ConstLR, learning_rate: 0.02}}}}
DataLoader:
  Train: &data
    dataset:
      name: ImageNetDataset
      image_root: {data}
      cls_label_path: {data}/list.txt
      transform_ops:
        - DecodeImage: {{to_rgb: True, channel_first: False}}
        - ResizeImage: {{size: 32}}
        - NormalizeImage: {{scale: 1.0/255.0, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], order: ''}}
    sampler: {{name: DistributedBatchSampler, batch_size: 6, drop_last: False, shuffle: True}}
    loader: {{num_workers: 0}}
  Eval: *data
Infer: {{infer_imgs: {data}, batch_size: 2, PostProcess: {{name: Topk, topk: 1, class_id_map_file: {data}/labels.txt}}}}
Metric: {{Train: [TopkAcc: {{topk: [1]}}], Eval: [TopkAcc: {{topk: [1]}}]}}
"""


@pytest.fixture(scope="module", autouse=True)
def gated_net():
    with made_up.registered() as family:
        yield family


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve photos whose class is their colour, a list and labels."""
    folder = tmp_path_factory.mktemp("colours")
    rng, lines = np.random.default_rng(0), []
    for i in range(12):
        image = rng.integers(0, 90, (34, 40, 3))
        image[..., i % CLASSES] += 150
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
        lines.append(f"{i}.png {i % CLASSES}\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "labels.txt").write_text("0 blue\n1 green\n2 red\n")
    return folder


def smallest(family) -> str:
    """The variant of a family with the least to compute."""
    return min(family.variants, key=lambda name: family.fixed(name).get("scale", 1.0))


@pytest.mark.parametrize("name", [*(smallest(family) for family in FAMILIES.values()), "GatedNet"])
def test_the_whole_way(name, data, tmp_path, capsys):
    """Train a few steps, evaluate, export, verify, quantize, count, report: what a family must be able to do."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, data=data, name=name))
    output, package, weights = (
        tmp_path / "output",
        tmp_path / "package",
        f"Global.pretrained_model={tmp_path}/output/latest",
    )
    words = ["-c", str(config), "-o", weights]
    assert main(["train", "-c", str(config)]) == 0
    assert main(["eval", *words]) == 0
    assert "evaluated 12/12" in capsys.readouterr().out
    assert ("conv2d_0.w_0_velocity_0" in read_pickle(output / "latest.pdopt")[0]) == family_of(name).automatic_names

    assert main(["export", *words, "--to", "inference,pdmodel"]) == 0
    assert (
        main(["verify", str(package), "--images", str(data), "-c", str(config), "--checkpoint", f"{output}/latest"])
        == 0
    )
    int8 = [
        *words,
        "--to",
        "pdmodel",
        "--photos",
        "4",
        "--output",
        str(tmp_path / "int8"),
        "--json",
        str(tmp_path / "q"),
    ]
    if paddle.__version__ >= "3":
        assert main(["quantize", *int8, "--keep-float", "head"]) == 0
        assert json.loads((tmp_path / "q").read_text())["kept_float"] == [family_of(name).classifier]

    assert main(["cost", name, "--resolution", "32", "--class-num", str(CLASSES), "--json", str(tmp_path / "c")]) == 0
    counted, network = json.loads((tmp_path / "c").read_text()), create_model(name, class_num=CLASSES)
    assert counted["parameters"] == sum(p.size for p in network.parameters() if not p.stop_gradient)
    assert counted["peak_activation_bytes"] > 0 and not counted["left_out"]

    gather.report_folder(output, timed=False)
    found = json.loads((output / "report" / "report.json").read_text())
    assert found["summary"]["photos"] == 12 and found["cost"]["madds"] == counted["madds"]
    # maps have no where in the last features of 1x1 that strides of 32 leave
    one_point = family_of(name).name != "GatedNet"
    assert found.get("left_out", {}).keys() == ({"where it looked"} if one_point else set())
    page = (output / "report" / "report.html").read_text()
    assert (">Where it looked</h2>" in page, ">Left out</h2>" in page) == (not one_point, one_point)


def test_what_contributing_shows_works(repo):
    page = (repo / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.S)[1].replace("from .", "from ppmobilenet.models.")
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "my_net"})
    assert create_model("MyNet_x0_5", class_num=2)(photos()).shape == [2, 2]
    maps = create_model("MyNet", features_only=True)(photos())
    assert [m.shape for m in maps] == [[2, 32, 16, 16], [2, 64, 8, 8]]


def test_a_name_twice_is_refused():
    with pytest.raises(ValueError, match="'GatedNet' is registered twice"):
        register(made_up.FAMILY)


def test_what_everybody_asks_is_answered_by_the_value():
    assert list_models("Gated*") == ["GatedNet_x2_0", "GatedNet"]
    model = create_model("GatedNet", class_num=CLASSES)
    assert family_of(model) is family_of("GatedNet_x2_0") is made_up.FAMILY
    with pytest.raises(UserError, match="GatedNet_x2_0 fixes scale at 2.0(.|\n)*use GatedNet, which takes any"):
        create_model("GatedNet_x2_0", scale=1.0)
    assert model.feature_channels == (16, 24) and model.feature_strides == (4, 8)
    maps = create_model("GatedNet", features_only=True, out_indices=(0,))(photos(1))
    assert [m.shape for m in maps] == [[1, 16, 8, 8]]
    with pytest.raises(UserError, match=r"some of 0 to 1 \(strides 4, 8\)"):
        create_model("GatedNet", features_only=True, out_indices=(2,))
    rows = cost.sweep("GatedNet", resolutions=(32,), class_num=CLASSES)
    assert [row["alpha"] for row in rows] == [1.0, 2.0]
    assert all(family.scales(smallest(family)) for family in FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_layouts_and_network_agree(name):
    """What a family's file in ``weights/`` repeats of its network's."""
    family, known = FAMILIES[name], layouts.LAYOUTS[name]
    open_names = {MODELS.freer(name, "scale") for name in family.variants} - {row[0] for row in known.published}
    assert {row[0] for row in known.published} in (set(family.variants) - open_names, set())
    for model, arguments, *_ in known.published:
        assert {**arguments, **family.fixed(model)} == dict(arguments)
        assert set(arguments) - set(family.fixed(model)) <= {"scale"}, "what no name fixes is the class's own scale"
    assert create_model(smallest(family), class_num=2).activation == known.activation


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_the_made_up_network_computes_what_its_layers_say(data_format):
    """A gate by hand; and NHWC gives what NCHW gives."""
    model = create_model("GatedNet", class_num=CLASSES)
    randomise(model)
    model.eval()
    x = photos(2, 37, 32)
    if data_format == "NHWC":
        other = create_model("GatedNet", class_num=CLASSES, data_format="NHWC")
        other.set_state_dict(model.state_dict())
        other.eval()
        np.testing.assert_allclose(other(x).numpy(), model(x).numpy(), atol=2e-5)
        return
    unit = model.blocks[1]
    y = unit.filter(unit.expand(model.blocks[0](model.conv(x)))).numpy()
    state = {key: value.numpy() for key, value in unit.gate.state_dict().items()}
    squeezed = np.maximum(y.mean((2, 3)) @ state["conv1.weight"][:, :, 0, 0].T + state["conv1.bias"], 0)
    gate = np.clip((squeezed @ state["conv2.weight"][:, :, 0, 0].T + state["conv2.bias"]) / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(unit.gate(paddle.to_tensor(y)).numpy(), y * gate[:, :, None, None], atol=1e-5)


def test_its_files_are_read_by_its_layouts(tmp_path):
    """Somebody's PyTorch names, and the automatic names of an exported program: the gates' biases stay biases."""
    source = create_model("GatedNet_x2_0", class_num=CLASSES)
    randomise(source)
    source.eval()
    expected = source(photos()).numpy()
    theirs = {}
    for key, value in source.state_dict().items():
        value = value.numpy().T if key == "classifier.weight" else value.numpy()
        key = key.replace("_mean", "running_mean").replace("_variance", "running_var").replace("classifier", "head")
        key = re.sub(r"^conv\.(conv|bn)", lambda m: f"features.0.{m[1] == 'bn':d}", key)
        for i, part in enumerate(("expand", "filter", None, "project")):
            place = (0, 2, 4, 5)[i]
            key = re.sub(
                rf"^blocks\.(\d+)\.{part}\.(conv|bn)",
                lambda m, place=place: f"features.{int(m[1]) + 1}.{place + (m[2] == 'bn')}",
                key,
            )
        theirs[re.sub(r"^blocks\.(\d+)\.gate\.conv", lambda m: f"features.{int(m[1]) + 1}.4.fc", key)] = value
    np.savez(tmp_path / "theirs.npz", **theirs)
    assert architecture_of(tmp_path / "theirs.npz") == {"name": "GatedNet", "scale": 2.0, "class_num": CLASSES}
    table, by_name = automatic_names(source), {p.name: p.numpy() for p in source.state_dict().values()}
    np.savez(tmp_path / "automatic.npz", **{table[name]: value for name, value in by_name.items()})
    for file, scheme in (("theirs", "gated-torch"), ("automatic", "paddle-automatic")):
        model = create_model("GatedNet_x2_0", class_num=CLASSES)
        report = load_weights(model, tmp_path / f"{file}.npz", class_num_may_differ=False)
        assert report.scheme == scheme and report.loaded == report.total
        model.eval()
        np.testing.assert_allclose(model(photos()).numpy(), expected, atol=1e-5)
    with pytest.raises(UserError, match="weights of a GatedNet .* the model is a MobileNetV1"):
        load_weights(create_model("MobileNetV1_x0_25"), tmp_path / "theirs.npz")


def test_memory_of_a_gate():
    """While a gate multiplies, the map, the gate and the product are held, and the shortcut's input around them."""
    rows = {row.name: row for row in cost.cost_of(create_model("GatedNet", class_num=CLASSES), 64).layers}
    side = 16 * 16  # of the second block's maps
    assert rows["blocks.1.gate.conv1"].live == side * (48 + 16) + 48 + 12
    assert rows["blocks.1.gate.conv2"].live == side * (48 + 48 + 16) + 48
    whole = cost.Cost(tuple(rows.values()), (64, 64))
    assert [row["layer"] for row in whole.separable()] == [f"blocks.{i}.filter.conv" for i in range(3)]
    assert whole.peak() == (side * 112 + 48, "blocks.1.gate.conv2")
    assert whole.peak(4) == whole.peak(), "a gate needs all channels: nothing to slice"


class Branched(paddle.nn.Layer):
    """A gate that says nothing of itself, and more than one linear layer behind the pooling."""

    def __init__(self):
        super().__init__()
        self.first, self.squeeze = paddle.nn.Conv2D(3, 8, 3, stride=2, padding=1), paddle.nn.Conv2D(8, 8, 1)
        self.last, self.pool = paddle.nn.Conv2D(8, 6, 1), paddle.nn.AdaptiveAvgPool2D(1)
        self.fc = paddle.nn.Linear(6, 4)

    def forward(self, x):
        x = self.first(x)
        x = x * self.squeeze(x.mean([2, 3], keepdim=True))
        return self.fc(paddle.nn.functional.relu(self.pool(self.last(x)).flatten(1)) - 0.1)


def test_what_cannot_be_computed_is_left_out_by_name(data, tmp_path, monkeypatch):
    """A network's memory and maps that nothing tells are named; the rest of the cost and of the report stands."""
    model = Branched()
    found = cost.cost_of(model, 32).to_dict()
    assert found["peak_activation_bytes"] is None and "last takes another map" in found["left_out"]["peak memory"]
    assert found["madds"] == 16 * 16 * (8 * 27 + 8 * 6) + 64 + 24
    with pytest.raises(UserError, match="one linear layer of the mean"):
        cam.class_activation(model, photos().numpy())

    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, data=data, name="GatedNet"))
    assert main(["train", "-c", str(config)]) == 0
    folder = tmp_path / "output"

    def no_map(*words):
        raise UserError("no map of this network")

    monkeypatch.setattr(cam, "class_activation", no_map)
    content = gather.from_run(folder, load_config(config))
    assert content.left_out == {"where it looked": "no map of this network"} and content.cost["madds"] > 0
    page = gather.report.write(content, folder / "again").read_text()
    assert "Left out" in page and "no map of this network" in page and ">Cost</h2>" in page
