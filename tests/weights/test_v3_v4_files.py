"""Files of MobileNetV3 and MobileNetV4 that other projects wrote, each with the outputs of its own network."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from ppmobilenet.errors import DamagedFileError, UserError
from ppmobilenet.weights import catalog, download
from ppmobilenet.weights.convert import architecture_of, renamed
from ppmobilenet.weights.inspecting import inspect_weights
from ppmobilenet.weights.loading import load_weights
from ppmobilenet.weights.optimizer_names import automatic_names
from ppmobilenet.weights.writing import write_weights

paddle = pytest.importorskip("paddle")
cv2 = pytest.importorskip("cv2")
from ppmobilenet.zoo import create_model  # noqa: E402

IMAGES = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype("float32"))
HEAD = ["last_conv.weight", "fc.weight", "fc.bias"]
OPTIONS = {"se_divisor": 8, "expand_first": False, "last_conv_bias": True}


def randomised(model):
    """Random weights that keep maps near 1, and statistics that are worth something; in eval mode."""
    rng = np.random.default_rng(0)
    for key, value in model.state_dict().items():
        shape = value.shape
        if len(shape) > 1:
            new = rng.normal(0, (2 / np.prod(shape[1:] if len(shape) == 4 else shape[:1])) ** 0.5, shape)
        elif key.endswith(("_variance", "weight", "gamma")):
            new = rng.uniform(0.5, 1.5, shape)
        else:
            new = rng.normal(0, 0.2, shape)
        value.set_value(new.astype("float32"))
    model.eval()
    return model


def state_of(model) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def torch_ends(key: str) -> str:
    return key.replace("._mean", ".running_mean").replace("._variance", ".running_var")


def assert_loads(path, arch: dict, scheme: str, expected, **kwargs) -> str:
    """The file tells its network; loaded strictly it gives what its own network gave. Returns the report."""
    assert architecture_of(path) == arch
    model = create_model(**arch, **kwargs)
    report = load_weights(model, path, class_num_may_differ=False)
    assert report.scheme == scheme and report.loaded == report.total
    model.eval()
    found, expected = model(IMAGES).numpy(), expected.numpy()
    assert expected.std() > 1e-2 and np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    return str(report)


def units(state: dict) -> dict[int, list[str]]:
    """The units of each block of paddle.vision's network, in order."""
    found: dict[int, list[str]] = {}
    for key in state:
        match = re.match(r"blocks\.(\d+)\.(\w+)", key)
        if match and match[2] not in found.setdefault(int(match[1]), []):
            found[int(match[1])].append(match[2])
    return found


def torchvision_key(key: str, blocks: dict[int, list[str]]) -> str:
    key = re.sub(r"^conv\.", "features.0.", re.sub(r"^lastconv\.", f"features.{len(blocks) + 1}.", key))
    return torch_ends(
        re.sub(
            r"^blocks\.(\d+)\.(\w+)",
            lambda m: f"features.{int(m[1]) + 1}.block.{blocks[int(m[1])].index(m[2])}",
            key,
        )
    )


def timm_key(key: str, blocks: dict[int, list[str]], stages: tuple[int, ...]) -> str:
    ends = {
        "expand_conv": ("conv_pw", "bn1"),
        "bottleneck_conv": ("conv_dw", "bn2"),
        "linear_conv": ("conv_pwl", "bn3"),
    }
    first = {"bottleneck_conv": ("conv_dw", "bn1"), "linear_conv": ("conv_pw", "bn2")}

    def block(m) -> str:
        i, stage = int(m[1]), 0
        names = ends if "expand_conv" in blocks[i] else first
        while i >= stages[stage]:
            i, stage = i - stages[stage], stage + 1
        gate = {"mid_se.fc1": "se.conv_reduce", "mid_se.fc2": "se.conv_expand"}
        return f"blocks.{stage}.{i}.{gate[m[2]] if m[2] in gate else names[m[2][:-2]][int(m[2][-1])]}."

    key = re.sub(r"^blocks\.(\d+)\.(mid_se\.fc\d|\w+\.\d)\.", block, key)
    for start, name in (("conv.0", "conv_stem"), ("conv.1", "bn1"), ("classifier.0", "conv_head")):
        key = re.sub(rf"^{re.escape(start)}\.", f"{name}.", key)
    key = re.sub(r"^lastconv\.(\d)", lambda m: f"blocks.{len(stages)}.0.{('conv', 'bn1')[int(m[1])]}", key)
    return torch_ends(key.replace("classifier.3", "classifier"))


@pytest.mark.parametrize("size,stages,expand", [("small", (1, 2, 3, 2, 3), 1024), ("large", (1, 2, 3, 4, 2, 3), 1280)])
def test_torchvision_timm_and_paddle_vision(tmp_path, size, stages, expand):
    """paddle.vision's class is torchvision's network, and timm's but for batch norm's epsilon: it stands for all."""
    network = randomised(getattr(paddle.vision.models, f"mobilenet_v3_{size}")(num_classes=7))
    state = state_of(network)
    arch = {"name": f"MobileNetV3_{size}_x1_0", **OPTIONS, "class_num": 7}
    arch |= {"class_expand": expand} if expand != 1280 else {}
    report = assert_loads(write_weights(state, tmp_path / "pv.npz"), arch, "paddle-vision-v3", network(IMAGES))
    assert "gates' slope 0.167" in report and "1.25" in report

    blocks = units(state)
    torch = {key: value.T if value.ndim == 2 else value for key, value in state.items()}
    named = {torchvision_key(key, blocks): value for key, value in torch.items()}
    path = write_weights(named, tmp_path / "torchvision.npz")
    assert_loads(path, arch, "torchvision-v3", network(IMAGES))
    # and goes back to torchvision's names, to within the rounding of its factors
    model = create_model(**arch)
    load_weights(model, path, class_num_may_differ=False)
    back = renamed(state_of(model), "torchvision", model.computes)
    assert {key for key in back if not key.endswith("num_batches_tracked")} == set(named)
    assert all(np.allclose(back[key], value, rtol=1e-5, atol=1e-7) for key, value in named.items())
    # a network with the file's own slope and no dropout needs nothing changed but the epsilon
    told = assert_loads(path, arch, "torchvision-v3", network(IMAGES), se_slope=1 / 6, dropout_prob=None)
    assert told.endswith("266 of 266 tensors loaded" if size == "large" else "210 of 210 tensors loaded")

    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._epsilon = 1e-5
    named = {timm_key(key, blocks, stages): value for key, value in torch.items()}
    named["conv_head.weight"] = named["conv_head.weight"][:, :, None, None]
    scheme = {"large": "timm-v3", "small": "timm-v3-small"}[size]
    assert_loads(write_weights(named, tmp_path / "timm.npz"), arch, scheme, network(IMAGES))


# blocks in each of timm's stages
STAGES = {"conv_small": (2, 2, 6, 6, 1), "conv_medium": (1, 2, 8, 11, 1), "hybrid_medium": (1, 2, 12, 16, 1)}
TIMM_V4 = (
    (r"^conv_stem\.conv", "conv_stem"),
    (r"^conv_stem\.bn", "bn1"),
    (r"^conv_head\.conv", "conv_head"),
    (r"^conv_head\.bn", "norm_head"),
    (r"^(blocks\.\d+\.\d+)\.bn\.", r"\1.bn1."),
    (r"conv_exp\.conv", "conv_exp"),
    (r"conv_exp\.bn", "bn1"),
    (r"conv_pwl\.conv", "conv_pwl"),
    (r"conv_pwl\.bn", "bn2"),
    (r"\.(key|value)_down_proj\.conv", r".attn.\1.down_conv"),
    (r"\.(key|value)_down_proj\.bn", r".attn.\1.norm"),
    (r"\.(query|key|value)_proj\.", r".attn.\1.proj."),
    (r"^(blocks\.\d+\.\d+)\.proj\.", r"\1.attn.output.proj."),
)


def timm_v4(state: dict, stages: tuple[int, ...]) -> dict[str, np.ndarray]:
    places = [(stage, i) for stage, count in enumerate(stages) for i in range(count)]
    named = {}
    for key, value in state.items():
        key = re.sub(r"^blocks\.(\d+)", lambda m: "blocks.{}.{}".format(*places[int(m[1])]), key)
        for pattern, replacement in TIMM_V4:
            key = re.sub(pattern, replacement, key)
        named[torch_ends(key)] = value.T if value.ndim == 2 else value
    return named


@pytest.mark.parametrize("size", STAGES)
def test_timm_v4(tmp_path, size):
    kwargs = {"attention_scale": "timm"}
    network = randomised(create_model(f"MobileNetV4_{size}", class_num=7, **kwargs))
    path = write_weights(timm_v4(state_of(network), STAGES[size]), tmp_path / "timm.npz")
    arch = {"name": f"MobileNetV4_{size}", "class_num": 7}
    scheme = "timm-v4-small" if size == "conv_small" else "timm-v4"
    report = assert_loads(path, arch, scheme, network(IMAGES))
    assert ("queries of 8 attention layers scaled" in report) == size.startswith("hybrid")
    own = load_weights(network, write_weights(state_of(network), tmp_path / "own.npz"), class_num_may_differ=False)
    assert own.scheme == "paddleclas-v4" and own.loaded == own.total and not own.notes
    assert "queries" not in assert_loads(path, arch, scheme, network(IMAGES), **kwargs)
    # an exported program names its arrays by numbers
    model = create_model(f"MobileNetV4_{size}", class_num=7)
    names, table = {p.name: p.numpy() for p in network.state_dict().values()}, automatic_names(network)
    write_weights({table[name]: value for name, value in names.items()}, tmp_path / "numbers.npz")
    report = load_weights(model, tmp_path / "numbers.npz")
    assert report.scheme == "paddle-automatic" and report.loaded == report.total
    assert all(np.array_equal(value, state_of(network)[key]) for key, value in state_of(model).items())


def test_what_torchvision_has_no_place_for_is_not_written():
    def written(**options) -> None:
        model = create_model("MobileNetV3_small_x0_35", class_num=3, **options)
        renamed(state_of(model), "torchvision", model.computes)

    written(**OPTIONS)
    for options, said in (
        ({"se_divisor": None}, "squeeze-excitation of block 0 is 2 wide; torchvision's is 8 wide"),
        ({"use_se": False}, "squeeze-excitation of block 0 is missing"),
        ({"expand_first": True}, "its first block has a trained expand convolution"),
        ({"class_expand": 0}, "one has none .class_expand=0"),
        ({"same_padding": True}, "the network computes with same_padding, which torchvision's has not"),
        ({"max_pool": True, "strides": [2, 2, 2, 1]}, "computes with strides, max_pool, which"),
    ):
        with pytest.raises(UserError, match=said):
            written(**{**OPTIONS, **options})


def test_other_width_rules_are_refused_by_name(tmp_path):
    """timm's small_075: the ratio of expansion times the rounded width of the input."""
    state = state_of(create_model("MobileNetV3_small_x0_75", class_num=3))
    expanded = (16, 72, 88, 96, 192, 192, 96, 120, 240, 432, 432)
    for key, value in state.items():
        match = re.match(r"blocks\.(\d+)\.(expand_conv|bottleneck_conv|linear_conv|mid_se)\.(\w+)", key)
        if match:
            ours, theirs = state[f"blocks.{match[1]}.bottleneck_conv.conv.weight"].shape[0], expanded[int(match[1])]
            shape = [theirs if c == ours else c for c in value.shape]
            state[key] = np.zeros(shape, "float32") if not key.endswith("bottleneck_conv.conv.weight") else value
    for i, theirs in enumerate(expanded):
        key = f"blocks.{i}.bottleneck_conv.conv.weight"
        state[key] = np.zeros((theirs, *state[key].shape[1:]), "float32")
    path = write_weights(state, tmp_path / "small_075.npz")
    with pytest.raises(UserError, match="x0.75 by the width rule of TensorFlow and timm.*16, 72, 88, 96, 192"):
        load_weights(create_model("MobileNetV3_small_x0_75", class_num=3), path)
    assert inspect_weights(path).architecture is None
    state = state_of(create_model("MobileNetV4_conv_small", class_num=3))
    state["conv_stem.conv.weight"] = np.zeros((16, 3, 3, 3), "float32")
    path = write_weights(state, tmp_path / "v4.npz")
    with pytest.raises(UserError, match="a MobileNetV4 of 17 rows, of a first convolution of 16 channels"):
        load_weights(create_model("MobileNetV4_conv_small", class_num=3), path)


def test_a_file_with_another_md5_is_refused(tmp_path):
    row = catalog.find("MobileNetV3_small_x0_35")
    assert row.md5 == "938f11e720fdd04fe46a68322155f7e3" and catalog.find(row.model, use_ssld=True).md5 is None
    path = write_weights(state_of(create_model(row.model)), tmp_path / "w.pdparams")
    with pytest.raises(DamagedFileError, match="its MD5 is .*, that of MobileNetV3_small_x0_35 is known as 938f11e7"):
        download.check_published(path, row)
    download.check_published(path, catalog.find(row.model, use_ssld=True))


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file,name,options,loaded,ignored",
    [
        ("MobileNetV3_large_x0_5_ppocr_pretrained.pdparams", "MobileNetV3_large_x0_5", {}, "267 of 270", 0),
        ("MobileNetV3_small_x0_5_ppocr_en_rec.pdparams", "MobileNetV3_small_x0_5", {}, "211 of 214", 34),
        ("PaddleOCR_det_MobileNetV3_large_x0_5_no_se", "MobileNetV3_large_x0_5", {"use_se": False}, "235 of 238", 21),
    ],
)
def test_paddleocr_trunks(shared, file, name, options, loaded, ignored):
    """The trunk alone is whole; a network with PaddleClas's head lacks three tensors, and is told which."""
    path = shared / "weights" / file
    arch = {"name": name, **options, "class_expand": 0, "class_num": 0}
    assert architecture_of(path) == arch
    report = load_weights(create_model(**arch), path)
    assert report.loaded == report.total == int(loaded.split()[0]) and len(report.ignored) == ignored
    with pytest.raises(UserError, match=r"missing in the file \(3\): last_conv.weight"):
        load_weights(create_model(name, **options), path)
    whole = load_weights(create_model(name, **options), path, allow_missing=HEAD)
    assert str(whole).startswith(f"{loaded} tensors loaded; missing, as allowed: last_conv.weight")


CLS_PROGRAM = """
import sys
import numpy as np, paddle
prefix, images, result = sys.argv[1:]
paddle.enable_static()
executor = paddle.static.Executor(paddle.CPUPlace())
program, feeds, fetches = paddle.static.load_inference_model(prefix, executor)
np.save(result, executor.run(program, feed={feeds[0]: np.load(images)}, fetch_list=fetches)[0])
"""


def test_paddleocr_s_orientation_classifier_equals_its_program(shared, tmp_path, monkeypatch):
    """Loaded by position into our network, with its strides, its pooling and its head."""
    folder = shared / "weights" / "PaddleOCR_cls_MobileNetV3_small_x0_35"
    arch = architecture_of(folder)
    assert arch == {"name": "MobileNetV3_small_x0_35", "class_expand": 0, "class_num": 2}
    model = create_model(**arch, strides=[[2, 1]] * 4, max_pool=True, dropout_prob=None)
    report = load_weights(model, folder, class_num_may_differ=False)
    assert (report.scheme, report.loaded, report.total) == ("paddle-automatic", 213, 213)
    model.eval()
    images = np.random.default_rng(0).normal(0, 0.5, (3, 3, 48, 192)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setenv("FLAGS_enable_pir_api", "0")
    words = [folder / "inference", tmp_path / "images.npy", tmp_path / "out.npy"]
    subprocess.run([sys.executable, "-c", CLS_PROGRAM, *map(str, words)], check=True, capture_output=True)
    expected = np.load(tmp_path / "out.npy")
    found = paddle.nn.functional.softmax(model(paddle.to_tensor(images))).numpy()
    assert expected.shape == (3, 2) and 0.01 < expected.min() and np.ptp(expected[:, 0]) > 1e-3
    assert np.abs(found - expected).max() == 0.0


def test_google_s_small_knows_the_photos_with_its_own_padding(shared):
    """Torchvision's names, TensorFlow's SAME padding, pixels from -1 to 1."""
    path = shared / "weights" / "MobileNetV3_small_google_bnfolded.npz"
    arch = architecture_of(path)
    assert arch == {"name": "MobileNetV3_small_x1_0", **OPTIONS, "class_expand": 1024}
    labels = (shared / "reference" / "imagenet1k_label_list.txt").read_text(encoding="utf-8").splitlines()
    sure = {}
    for same_padding in (True, False):
        model = create_model(**arch, same_padding=same_padding)
        assert load_weights(model, path, class_num_may_differ=False).bn_folded
        model.eval()
        found = {}
        for name in ("ILSVRC2012_val_00020010.jpeg", "ILSVRC2012_val_00030010.jpeg", "coral_cat_720p.jpg"):
            image = cv2.cvtColor(cv2.imread(str(shared / "images" / name)), cv2.COLOR_BGR2RGB)
            scale = 256 / min(image.shape[:2])
            image = cv2.resize(image, (round(image.shape[1] * scale), round(image.shape[0] * scale)))
            top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
            pixels = image[top : top + 224, left : left + 224].transpose(2, 0, 1)[None] / np.float32(127.5) - 1
            logits = model(paddle.to_tensor(pixels.astype("float32")))
            share = paddle.nn.functional.softmax(logits).numpy()[0]
            found[labels[share.argmax()].split(" ", 1)[1].split(",")[0]] = float(share.max())
        print(same_padding, found)
        sure[same_padding] = found
    assert list(sure[True]) == ["Weimaraner", "black grouse", "Egyptian cat"]
