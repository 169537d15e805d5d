"""`accelerate` changes how a network is computed and nothing else."""

import copy
import ctypes
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppmobilenet.errors import UserError
from ppmobilenet.kernels import accelerate, build
from ppmobilenet.kernels.memory import POOL
from ppmobilenet.models import mobilenet_v4
from ppmobilenet.models.family import FAMILIES
from ppmobilenet.zoo import create_model


@pytest.fixture(autouse=True)
def kernels():
    try:
        build.load_library()
    except build.Unavailable as reason:
        pytest.skip(f"no kernels here: {reason}")


def network(name="MobileNetV2_x0_25", **options):
    paddle.seed(3)
    model = create_model(name, class_num=4, init="kaiming_fan_out", **options)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        if len(p.shape) == 1 and not p.stop_gradient:
            p.set_value((p.numpy() + rng.normal(size=p.shape) * 0.2).astype("float32"))
    return model


def batch(n=4, size=64, seed=1):
    """Made-up images and labels."""
    rng = np.random.default_rng(seed)
    return paddle.to_tensor(rng.normal(size=(n, 3, size, size)).astype("float32")), paddle.to_tensor(
        rng.integers(0, 4, n)
    )


def losses(model, steps=4, **options):
    optimizer = paddle.optimizer.Momentum(1e-3, parameters=model.parameters())
    out = []
    for step in range(steps):
        x, y = batch(seed=step % 2, **options)
        loss = paddle.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        out.append(float(loss))
    return out


# the smallest of each family, how many of its layers are fused
SMALL = {
    "MobileNetV1_x0_25": 27,
    "MobileNetV2_x0_25": 53,
    "MobileNetV3_small_x0_35": 35,
    "MobileNetV4_conv_small": 45,
}


def test_every_family_is_tried():
    assert [name for name, family in FAMILIES.items() if not any(n in family.variants for n in SMALL)] == []


@pytest.mark.parametrize("name", SMALL)
def test_trains_as_stock(name):
    stock, fused = network(name), network(name)
    report = accelerate(fused, "on")
    assert report.accelerated and report.layers == SMALL[name] and "stock" not in report.message
    size = 128 if name[9:11] in ("V1", "V2") else 96
    paddle.seed(0)
    ours = losses(fused, size=size)
    paddle.seed(0)  # of the dropout
    theirs = losses(stock, size=size)
    np.testing.assert_allclose(ours[:2], theirs[:2], rtol=1e-4)
    np.testing.assert_allclose(ours, theirs, rtol=3e-2)  # each step multiplies the difference of roundings
    ours, theirs = fused.state_dict(), stock.state_dict()
    assert list(ours) == list(theirs)
    assert [p.name for p in fused.parameters()] == [p.name for p in stock.parameters()]
    for key in ours:
        apart = np.linalg.norm(ours[key].numpy() - theirs[key].numpy())
        assert apart <= 0.05 * np.linalg.norm(theirs[key].numpy()), key


class Hybrid(mobilenet_v4.MobileNetV4):
    """MobileNetV4's rows of every kind, attention among them, with layer scale and dropped paths."""

    def __init__(self, **options):
        rows = (mobilenet_v4.Fused(8, 16, 3, 2), mobilenet_v4.UIB(12, 24, 3, 5, 2), mobilenet_v4.MQA(12, 2, 8, 2))
        rows += (mobilenet_v4.UIB(12, 20, 5, 0), mobilenet_v4.MQA(12, 2, 8, 1), mobilenet_v4.Conv(20, 1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(mobilenet_v4.SIZES, "conv_small", rows)
            super().__init__(class_num=4, layer_scale=0.5, drop_path_rate=0.3, **options)


def test_attention_runs_stock_between_fused_units():
    models = []
    for _ in range(2):
        paddle.seed(3)
        models.append(Hybrid())
    stock, fused = models
    report = accelerate(fused, "on")
    assert report.layers == 11 and "2 of 7 units stock (MobileAttention" in report.message
    x, y = batch(6)
    found = []
    for model in (fused, stock):
        paddle.seed(1)  # of the dropped paths
        found.append(gradients(model, x, y))
    for name, g in found[1].items():
        if g is not None:
            assert np.linalg.norm(found[0][name] - g) <= 2e-3 * np.linalg.norm(g) + 1e-5, name
    for name, value in stock.state_dict().items():
        np.testing.assert_allclose(fused.state_dict()[name].numpy(), value.numpy(), atol=1e-4, err_msg=name)


def test_evaluation_equals_stock():
    stock, fused = network(), network()
    accelerate(fused, "on")
    losses(fused)
    stock.set_state_dict(fused.state_dict())
    stock.eval()
    fused.eval()
    x, _ = batch()
    before = fused.state_dict()["conv1._batch_norm._mean"].numpy()
    with paddle.no_grad():
        np.testing.assert_allclose(fused(x).numpy(), stock(x).numpy(), atol=1e-5)
    assert np.array_equal(before, fused.state_dict()["conv1._batch_norm._mean"].numpy())


def gradients(model, x, y):
    paddle.nn.functional.cross_entropy(model(x), y).backward()
    found = {name: None if p.grad is None else p.grad.numpy() for name, p in model.named_parameters()}
    model.clear_gradients()
    return found


@pytest.mark.parametrize("frozen", ("leading", "weights", "scales", "everything in front of the classifier"))
def test_frozen_parts(frozen):
    stock, fused = network(), network()
    accelerate(fused, "on")
    for model in (stock, fused):
        units = model.units()
        for i, unit in enumerate(units):
            if frozen == "leading" and i < 9 or frozen.startswith("everything"):
                for p in unit.parameters():
                    p.stop_gradient = True
                unit.eval()
            for name, p in unit.named_parameters():
                if frozen == "weights" and name.endswith("conv.weight") or frozen == "scales" and "norm" in name:
                    p.stop_gradient = True
    for seed in (1, 2, 3):  # of one batch a value may lie so near to a corner of ReLU6 that roundings decide
        x, y = batch(seed=seed)
        ours, theirs = gradients(fused, x, y), gradients(stock, x, y)
        assert {name: g is None for name, g in ours.items()} == {name: g is None for name, g in theirs.items()}
        trained = {name: g for name, g in theirs.items() if g is not None}
        far = [n for n, g in trained.items() if not np.abs(ours[n] - g).max() <= 2e-3 * np.abs(g).max() + 1e-4]
        if not far:
            break
    assert not far
    statistics = [name for name in stock.state_dict() if name.endswith("_mean")]
    for name in statistics:
        np.testing.assert_allclose(
            fused.state_dict()[name].numpy(), stock.state_dict()[name].numpy(), atol=1e-4, err_msg=name
        )


def test_accumulated_gradients():
    model = network()
    accelerate(model, "on")
    x, y = batch()
    once = gradients(model, x, y)
    for _ in range(2):
        paddle.nn.functional.cross_entropy(model(x), y).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            np.testing.assert_allclose(p.grad.numpy(), 2 * once[name], rtol=1e-5, atol=1e-6)


def test_two_forward_passes_before_backward():
    model = network()
    accelerate(model, "on")
    (x1, y1), (x2, y2) = batch(seed=1), batch(seed=2, n=2)
    first = paddle.nn.functional.cross_entropy(model(x1), y1)
    second = paddle.nn.functional.cross_entropy(model(x2), y2)
    first.backward()
    second.backward()
    both = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    apart = [gradients(model, x, y) for x, y in ((x1, y1), (x2, y2))]
    for name, g in both.items():
        np.testing.assert_allclose(g, apart[0][name] + apart[1][name], rtol=1e-4, atol=1e-5)


def test_memory_is_reused():
    model = network()
    accelerate(model, "on")
    losses(model, steps=2)
    blocks = len(POOL)
    losses(model, steps=4)
    losses(model, steps=1, n=3)  # a short last batch
    with paddle.no_grad():
        for _ in range(3):
            model(batch()[0])
    for _ in range(3):
        model(batch()[0])  # forgotten without backward
    assert len(POOL) <= blocks + 2


def test_copies_and_exports(tmp_path):
    model = network()
    accelerate(model, "on")
    losses(model, steps=1)
    twin = copy.deepcopy(model)
    model.eval()
    twin.eval()
    x, _ = batch(1)
    with paddle.no_grad():
        here = model(x).numpy()
        np.testing.assert_array_equal(twin(x).numpy(), here)
        twin.conv1._conv.weight.set_value(twin.conv1._conv.weight * 0)
        np.testing.assert_array_equal(model(x).numpy(), here)  # the copy runs on its own layers
        assert np.abs(twin(x).numpy() - here).max() > 1e-3
    spec = [paddle.static.InputSpec([None, 3, 64, 64], "float32")]
    paddle.jit.save(model, str(tmp_path / "m"), input_spec=spec)
    loaded = paddle.jit.load(str(tmp_path / "m"))
    loaded.eval()
    np.testing.assert_allclose(loaded(x).numpy(), here, atol=1e-5)


def test_what_the_engine_cannot_take_runs_on_stock_operators():
    stock, fused = network(), network()
    accelerate(fused, "on")
    seen = []
    x, y = batch()
    for layer in (fused.conv9, fused.conv8, fused.conv8._first_block._linear_conv._conv):
        hook = layer.register_forward_post_hook(lambda layer, inputs, out: seen.append(list(out.shape)))
        fused(x)
        hook.remove()
        fused(x)
    assert seen == [[4, 1280, 2, 2], [4, 80, 2, 2], [4, 80, 2, 2]]
    pixels = x.clone()
    pixels.stop_gradient = False
    fused(pixels).sum().backward()
    assert pixels.grad is not None and float(pixels.grad.abs().max()) > 0
    one, other = (m(batch(1, 32)[0]).numpy() for m in (network(), stock))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(accelerated(network())(batch(1, 32)[0]).numpy(), other)


def accelerated(model):
    accelerate(model, "on")
    return model


def test_modes():
    model = network()
    forward = model.forward
    assert not accelerate(model, "off").accelerated and model.forward == forward
    with pytest.raises(UserError, match="auto, on, off"):
        accelerate(model, "fast")


@pytest.mark.parametrize(
    ("options", "reason"),
    (({"data_format": "NHWC"}, "another kind"), ({"features_only": True}, "features_only")),
)
def test_models_that_it_cannot_take(options, reason):
    model = network(**options)
    report = accelerate(model)
    assert not report.accelerated and reason in report.message and "\n" not in report.message
    with pytest.raises(UserError, match=reason):
        accelerate(model, "on")
    assert model(batch()[0]) is not None


def test_any_other_layer_is_refused():
    report = accelerate(paddle.vision.models.LeNet())
    assert not report.accelerated and "LeNet" in report.message


def test_stock_operators_threads_do_not_spin(monkeypatch):
    """Paddle's OpenMP team would take the processors from the fused operators' threads for 200 ms after each."""
    openmp = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    if not openmp.is_file():
        pytest.skip("this Paddle has no Intel OpenMP")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    accelerate(create_model("MobileNetV1_x0_25"), "on")
    assert ctypes.CDLL(str(openmp)).kmp_get_blocktime() == 0
