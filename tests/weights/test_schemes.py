"""Every naming scheme loads into our networks with the outputs of its own."""

from __future__ import annotations

import numpy as np
import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.weights.convert import architecture_of, convert_weights, renamed
from ppmobilenet.weights.files import read_weights
from ppmobilenet.weights.inspecting import inspect_weights
from ppmobilenet.weights.loading import load_weights
from ppmobilenet.weights.schemes import AUTOMATIC
from ppmobilenet.weights.writing import write_weights

paddle = pytest.importorskip("paddle")
from ppmobilenet.training.start import Start, load_start  # noqa: E402
from ppmobilenet.zoo import create_model  # noqa: E402

IMAGES = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype("float32")


def outputs(model) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(IMAGES)).numpy()


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    assert np.abs(theirs).max() > 1e-2, "outputs that do not vary compare nothing"
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.fixture(scope="module")
def nets():
    pytest.importorskip("torch", reason="PyTorch is not installed (make peers)")
    import torch_networks

    return torch_networks


def torch_outputs(network) -> np.ndarray:
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(IMAGES)).numpy()


# scheme, network, our model's name, arguments told by the file's shapes
TORCH = {
    "torchvision 1.0": ("torchvision-v2", lambda n: n.MobileNetV2(), "MobileNetV2", {}),
    "torchvision 0.5": ("torchvision-v2", lambda n: n.MobileNetV2(0.5), "MobileNetV2_x0_5", {"divisor": 8}),
    "tutorial 0.5": ("pytorch-v2-tutorial", lambda n: n.MobileNetV2(0.5, False), "MobileNetV2_x0_5", {"divisor": 8}),
    "tutorial 1.0": ("pytorch-v2-tutorial", lambda n: n.MobileNetV2(1.0, False), "MobileNetV2", {}),
    "tutorial 1.4": (
        "pytorch-v2-tutorial",
        lambda n: n.MobileNetV2(1.4, False),
        "MobileNetV2",
        {"scale": 1.4, "divisor": 8},
    ),
    "tutorial 0.5, last scaled, 10 classes": (
        "pytorch-v2-tutorial",
        lambda n: n.MobileNetV2(0.5, False, scale_last=True, classes=10),
        "MobileNetV2_x0_5",
        {"divisor": 8, "last_channel": 640, "class_num": 10},
    ),
    "timm v2 050": ("timm-v2", lambda n: n.TimmV2(0.5), "MobileNetV2_x0_5", {"divisor": 8}),
    "timm v2 100": ("timm-v2", lambda n: n.TimmV2(), "MobileNetV2", {}),
    "timm v2 140": ("timm-v2", lambda n: n.TimmV2(1.4), "MobileNetV2", {"scale": 1.4, "divisor": 8}),
    "timm v2 110d": (
        "timm-v2",
        lambda n: n.TimmV2(1.1, 1.2, True),
        "MobileNetV2",
        {"scale": 1.1, "divisor": 8, "depth": 1.2, "fix_stem_head": True},
    ),
    "timm v2 120d": (
        "timm-v2",
        lambda n: n.TimmV2(1.2, 1.4, True),
        "MobileNetV2",
        {"scale": 1.2, "divisor": 8, "depth": 1.4, "fix_stem_head": True},
    ),
    "timm v1 100": ("timm-v1", lambda n: n.TimmV1(), "MobileNetV1", {"activation": "relu6"}),
    "timm v1 125": ("timm-v1", lambda n: n.TimmV1(1.25), "MobileNetV1", {"scale": 1.25, "activation": "relu6"}),
    "retinaface v1": ("pytorch-v1-stages", lambda n: n.SequenceV1(0.25, True), "MobileNetV1_x0_25", {}),
    "sequence v1": ("pytorch-v1-sequence", lambda n: n.SequenceV1(0.5), "MobileNetV1_x0_5", {}),
}


@pytest.mark.parametrize("case", TORCH)
def test_pytorch_layouts_give_equal_outputs(tmp_path, nets, case):
    import torch

    scheme, make, name, arguments = TORCH[case]
    network = nets.randomised(make(nets))
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "w.pth")
    arch = architecture_of(tmp_path / "w.pth")
    assert arch == {"name": name, **arguments}
    model = create_model(**arch)
    report = load_weights(model, tmp_path / "w.pth", class_num_may_differ=False)
    assert report.scheme == scheme and report.loaded == report.total == len(model.state_dict())
    assert not report.bn_folded
    assert_close(outputs(model), torch_outputs(network))


@pytest.mark.parametrize("case", ["torchvision 1.0", "tutorial 0.5", "timm v2 100", "timm v1 100", "retinaface v1"])
def test_folded_batch_norm_gives_equal_outputs(tmp_path, nets, case):
    import torch

    scheme, make, name, arguments = TORCH[case]
    network = nets.randomised(make(nets))
    torch.save(nets.folded(network), tmp_path / "w.pth")
    model = create_model(name, **arguments)
    report = load_weights(model, tmp_path / "w.pth")
    assert (report.scheme, report.loaded, report.bn_folded) == (scheme, report.total, True)
    assert_close(outputs(model), torch_outputs(network))


@pytest.mark.parametrize(("offset", "folded"), [(0.0, False), (2e-4, False), (0.5, True)])
def test_statistics_that_nothing_touched_are_not_folded_ones(tmp_path, offset, folded):
    """A training that kept the first statistics moves offsets by little, and scales by less than can be told from 1."""
    state = state_of(create_model("MobileNetV2_x0_25"))
    for key in state:
        if key.endswith("_batch_norm.bias"):
            state[key] = np.full_like(state[key], offset)
    report = load_weights(create_model("MobileNetV2_x0_25"), write_weights(state, tmp_path / "w.npz"))
    assert report.bn_folded is folded


def state_of(model) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def randomise(model, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for key, value in model.state_dict().items():
        shape = value.shape
        if key.endswith("_variance"):
            new = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 4:
            new = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        elif len(shape) == 2:
            new = rng.normal(0, 0.1, shape)
        else:
            new = rng.normal(1.0 if key.endswith("weight") else 0.0, 0.1, shape)
        value.set_value(new.astype("float32"))


@pytest.fixture
def v1():
    model = create_model("MobileNetV1_x0_25")
    randomise(model)
    return model


@pytest.fixture
def v2():
    model = create_model("MobileNetV2_x0_25")
    randomise(model)
    return model


FIRST_GENERATION = ["2_1", "2_2", "3_1", "3_2", "4_1", "4_2", *(f"5_{i}" for i in range(1, 7)), "6"]


def first_generation(key: str) -> str:
    """PaddleClas's MobileNetV1 key of 2020 for a key of today."""
    ends = {"conv": "_conv", "bn": "_batch_norm"}
    parts = key.split(".")
    if parts[0] == "fc":
        return f"out.{parts[1]}"
    if parts[0] == "conv":
        return f"conv1.{ends[parts[1]]}.{parts[2]}"
    return f"conv{FIRST_GENERATION[int(parts[1])]}._{parts[2]}.{ends[parts[3]]}.{parts[4]}"


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_first_generation_of_paddleclas_v1(tmp_path, v1, prefix):
    state = {prefix + first_generation(key): value for key, value in state_of(v1).items()}
    if prefix:
        state[f"{prefix.replace('backbone.', '')}neck.conv.weight"] = np.zeros((3, 3, 3, 3), "float32")
    path = write_weights(state, tmp_path / "w.pdparams")
    model = create_model("MobileNetV1_x0_25")
    report = load_weights(model, path)
    assert report.scheme == "paddleclas-v1-first" and report.loaded == 137
    assert len(report.ignored) == bool(prefix) and ("outside 'backbone.'" in str(report)) == bool(prefix)
    np.testing.assert_array_equal(outputs(model), outputs(v1))


def test_first_generation_of_paddle_vision_v1(tmp_path, v1):
    state = {first_generation(key): value for key, value in state_of(v1).items()}
    state = {key.replace("_batch_norm", "_norm_layer").replace("out.", "fc."): v for key, v in state.items()}
    path = write_weights(state, tmp_path / "w.pdparams")
    model = create_model("MobileNetV1_x0_25")
    assert load_weights(model, path).scheme == "paddle-vision-v1-first"
    np.testing.assert_array_equal(outputs(model), outputs(v1))


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_param_attr_names(tmp_path, family, request):
    source = request.getfixturevalue(family)
    state = {tensor.name: tensor.numpy() for tensor in source.state_dict().values()}
    path = write_weights(state, tmp_path / "w.pdparams")
    model = create_model("MobileNetV1_x0_25" if family == "v1" else "MobileNetV2_x0_25")
    assert load_weights(model, path).scheme == f"param-attr-{family}"
    np.testing.assert_array_equal(outputs(model), outputs(source))


@pytest.mark.parametrize("prefix", ["module.", "_layers.", "backbone.", "Student.", "module._layers.Student."])
def test_prefixes(tmp_path, v2, prefix):
    state = {prefix + key: value for key, value in state_of(v2).items()}
    if "Student" in prefix:
        state.update({prefix.replace("Student", "Teacher") + "fc.weight": np.zeros((3, 3), "float32")})
    path = write_weights(state, tmp_path / "w.pdparams")
    model = create_model("MobileNetV2_x0_25")
    report = load_weights(model, path)
    assert report.loaded == 267 and len(report.ignored) == ("Student" in prefix)
    np.testing.assert_array_equal(outputs(model), outputs(v2))


@pytest.mark.parametrize(
    ("name", "scheme"), [("mobilenet_v1", "paddle-vision-v1"), ("mobilenet_v2", "paddle-vision-v2")]
)
@pytest.mark.parametrize("form", ["pdparams", "json"])
def test_paddle_vision(tmp_path, name, scheme, form):
    with paddle.utils.unique_name.guard():
        theirs = getattr(paddle.vision.models, name)(scale=0.5)
    randomise(theirs)
    expected = outputs(theirs)
    if form == "pdparams":
        paddle.save(theirs.state_dict(), str(tmp_path / "w.pdparams"))
    else:
        # an exported program names its parameters by position: conv2d_3.w_0
        paddle.jit.save(theirs, str(tmp_path / "w"), [paddle.static.InputSpec([None, 3, 32, 32], "float32")])
        scheme = AUTOMATIC
    arch = architecture_of(tmp_path / "w")
    assert arch["name"] == ("MobileNetV1_x0_5" if name == "mobilenet_v1" else "MobileNetV2_x0_5")
    model = create_model(**arch)
    report = load_weights(model, tmp_path / "w")
    assert report.scheme == scheme and report.loaded == report.total
    # V2's first block gets an expansion that changes nothing, but for a rounding of batch norm on some processors
    allowed = 2e-5 * np.abs(expected).max() if name == "mobilenet_v2" else 0
    np.testing.assert_allclose(outputs(model), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_our_exported_programs_of_both_kinds(tmp_path, family, request):
    source = request.getfixturevalue(family)
    spec = [paddle.static.InputSpec([None, 3, 32, 32], "float32")]
    expected = outputs(source)
    paddle.jit.save(source, str(tmp_path / "new"), spec)
    try:
        from paddle.pir_utils import OldIrGuard
    except ImportError:  # Paddle 2 writes the legacy program anyway
        kinds = ("new",)
    else:
        kinds = ("new", "old")
        with OldIrGuard():
            paddle.jit.save(source, str(tmp_path / "old"), spec)
        assert (tmp_path / "old.pdmodel").is_file() and (tmp_path / "new.json").is_file()
    for kind in kinds:
        model = create_model("MobileNetV1_x0_25" if family == "v1" else "MobileNetV2_x0_25")
        report = load_weights(model, tmp_path / f"{kind}.pdiparams")
        assert report.scheme == f"param-attr-{family}" and report.loaded == report.total
        np.testing.assert_array_equal(outputs(model), expected)


def test_exported_parameters_without_their_program(tmp_path, v2):
    paddle.jit.save(v2, str(tmp_path / "m"), [paddle.static.InputSpec([None, 3, 32, 32], "float32")])
    for program in (tmp_path / "m.json", tmp_path / "m.pdmodel"):
        if program.exists():
            with pytest.raises(UserError, match="is a program"):
                read_weights(program)
            program.unlink()
    with pytest.raises(UserError, match="the program that names its parameters is not beside it"):
        read_weights(tmp_path / "m.pdiparams")


@pytest.mark.parametrize("extension", [".pdparams", ".npz", ".safetensors"])
def test_converted_files_load_again_and_in_paddleclas(tmp_path, v2, extension, peer):
    source = write_weights(state_of(v2), tmp_path / "a.npz")
    done = convert_weights(create_model("MobileNetV2_x0_25"), source, tmp_path / f"b{extension}")
    assert done.tensors == 267 and "267 of 267 tensors loaded" in str(done)
    model = create_model("MobileNetV2_x0_25")
    load_weights(model, done.output)
    np.testing.assert_array_equal(outputs(model), outputs(v2))
    if extension == ".pdparams":
        with paddle.utils.unique_name.guard():
            theirs = peer.v2.MobileNetV2_x0_25()
        theirs.set_state_dict(paddle.load(str(done.output)))
        np.testing.assert_array_equal(outputs(theirs), outputs(v2))


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_what_paddleclas_saves_loads_here(tmp_path, family, peer):
    name = f"MobileNet{family.upper()}_x0_25"
    with paddle.utils.unique_name.guard():
        theirs = getattr(getattr(peer, family), name)()
    randomise(theirs)
    paddle.save(theirs.state_dict(), str(tmp_path / "best_model.pdparams"))
    ours = create_model(name)
    report = load_weights(ours, tmp_path / "best_model")
    assert report.loaded == report.total and not report.ignored
    np.testing.assert_array_equal(outputs(ours), outputs(theirs))


def test_back_to_torchvision(tmp_path, nets):
    import torch

    network = nets.randomised(nets.MobileNetV2(0.5))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = create_model(**architecture_of(tmp_path / "w.pth"))
    convert_weights(model, tmp_path / "w.pth", tmp_path / "back.npz", to="torchvision")
    back = read_weights(tmp_path / "back.npz")
    other = nets.MobileNetV2(0.5).eval()
    other.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in back.items()}, strict=True)
    np.testing.assert_array_equal(torch_outputs(other), torch_outputs(network))


def test_what_cannot_go_back_to_torchvision_says_why(v1, v2):
    with pytest.raises(UserError, match="trained expand convolution"):
        renamed(state_of(v2), "torchvision")
    with pytest.raises(UserError, match="torchvision has no MobileNetV1"):
        renamed(state_of(v1), "torchvision")


def test_a_scheme_can_be_forced_and_must_fit(tmp_path, v2):
    path = write_weights(state_of(v2), tmp_path / "w.npz")
    assert load_weights(create_model("MobileNetV2_x0_25"), path, scheme="paddleclas-v2").loaded == 267
    with pytest.raises(UserError, match="do not read as 'timm-v2'"):
        load_weights(create_model("MobileNetV2_x0_25"), path, scheme="timm-v2")
    with pytest.raises(UserError, match="did you mean 'timm-v2'"):
        load_weights(create_model("MobileNetV2_x0_25"), path, scheme="timmv2")


def test_another_width_is_named_with_what_to_build(tmp_path, nets):
    import torch

    torch.save(nets.MobileNetV2(0.5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        load_weights(create_model("MobileNetV2"), tmp_path / "w.pth")
    assert "the file's shapes are those of MobileNetV2_x0_5 with divisor=8" in str(caught.value)
    assert "Arch.name=MobileNetV2_x0_5 Arch.divisor=8" in str(caught.value)


def test_the_other_family_is_refused_in_one_line(tmp_path, v1):
    path = write_weights(state_of(v1), tmp_path / "w.npz")
    with pytest.raises(UserError, match="weights of a MobileNetV1 .* the model is a MobileNetV2"):
        load_weights(create_model("MobileNetV2"), path)


def test_the_head_is_skipped_only_where_class_counts_differ(tmp_path, v2):
    path = write_weights(state_of(v2), tmp_path / "w.npz")
    report = load_weights(create_model("MobileNetV2_x0_25", class_num=10), path)
    assert str(report) == "265 of 267 tensors loaded; head skipped: 1000 -> 10 classes"
    with pytest.raises(UserError, match="1000 classes in the file, 10 in the model"):
        load_weights(create_model("MobileNetV2_x0_25", class_num=10), path, class_num_may_differ=False)
    report = load_weights(create_model("MobileNetV2_x0_25", class_num=0), path)
    assert "265 of 265 tensors loaded; 2 ignored: the model has no classifier" in str(report)
    headless = write_weights({k: v for k, v in state_of(v2).items() if not k.startswith("out.")}, tmp_path / "h.npz")
    with pytest.raises(UserError, match=r"missing in the file \(2\): out.weight, out.bias"):
        load_weights(create_model("MobileNetV2_x0_25", class_num=10), headless)


def test_inspection_counts_what_is_not_finite(tmp_path, v1):
    state = state_of(v1)
    state["fc.bias"][3:5] = np.nan
    state["fc.weight"] = state["fc.weight"].astype("float16")
    page = str(inspect_weights(write_weights(state, tmp_path / "w.npz")))
    for words in (
        "naming        paddleclas-v1: PaddleClas MobileNetV1",
        "architecture  MobileNetV1_x0_25",
        "batch norm    as trained",
        "tensors       137 (136 float32, 1 float16), 475544 values",
        "NaN or inf    2",
        "blocks.12.pointwise_conv.bn._variance",
        "block.12.out.variance",
        "2 NaN or inf",
    ):
        assert words in page


def test_a_new_head_is_for_training_only(tmp_path, v2):
    path = write_weights(state_of(v2), tmp_path / "w.npz")
    model = create_model("MobileNetV2_x0_25", class_num=10, pretrained=str(path))
    assert model.state_dict()["out.bias"].shape == [10]
    start = Start("Arch.pretrained", str(path), "MobileNetV2_x0_25")
    assert load_start(model, start, new_head=True).path == path
    with pytest.raises(UserError, match="1000 classes in the file, 10 in the model"):
        load_start(model, start)
