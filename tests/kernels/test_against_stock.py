"""The fused network is stock's in everything but speed: made-up cases, and those that once differed."""

import ctypes
import pickle
import re
import subprocess
import sys

import against_stock
import numpy as np
import paddle
import pytest
from made_up_uses import Chain
from test_accelerate import batch, network

from ppmobilenet.data.loader import Batch
from ppmobilenet.errors import UserError
from ppmobilenet.kernels import accelerate, build, memory, run
from ppmobilenet.kernels.plan import plan
from ppmobilenet.models import computes, mobilenet_v1, mobilenet_v3, mobilenet_v4
from ppmobilenet.training.inputs import check_images

try:
    LIBRARY = build.load_library()
except build.Unavailable as reason:
    pytest.skip(f"no kernels here: {reason}", allow_module_level=True)

F = paddle.nn.functional


def accelerated(model):
    assert accelerate(model, "on").accelerated
    return model


def test_made_up_cases():
    told = [against_stock.check(number) for number in range(100) if against_stock.case(number).use != "compiled"]
    assert not [line for line, _ in told if line]
    assert sum(answered for _, answered in told) > 60


@pytest.mark.slow
def test_ten_thousand_cases_under_a_sanitizer(tmp_path):
    words = [sys.executable, against_stock.__file__, "--sanitizer", str(tmp_path), "--cases", "10000"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("shape", ([2, 1, 64, 64], [2, 4, 64, 64], [2, 64, 64, 3], [3, 64, 64]), ids=str)
def test_other_channels_are_refused(shape):
    model = accelerated(network())
    for _ in range(2):
        with pytest.raises(ValueError, match="channels|4-D"):
            model(paddle.ones(shape))
        model.eval()


@pytest.mark.parametrize("shape", ([2, 64, 64, 3], [2, 4, 64, 64], [2, 1, 64, 64], [2, 3, 64]), ids=str)
def test_batches_of_another_shape_have_a_message(shape):
    labels = np.zeros(2, np.int64)
    check_images(network(), Batch(np.zeros([2, 3, 64, 64], np.float32), labels, labels), "Train")
    with pytest.raises(UserError, match=re.escape(str(shape))) as told:
        check_images(network(), Batch(np.zeros(shape, np.float32), labels, labels), "Train")
    assert "DataLoader.Train.dataset.transform_ops" in str(told.value) and "ToCHWImage" in str(told.value)


def test_backward_again_and_again():
    model = accelerated(network())
    x, _ = batch()
    loss = (model(x) ** 2).sum()  # cross_entropy's own second backward differs from its first in Paddle
    loss.backward(retain_graph=True)
    once = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    loss.backward()
    assert len(once) > 100
    for name, p in model.named_parameters():
        if p.grad is not None:
            np.testing.assert_array_equal(p.grad.numpy(), 2 * once[name], err_msg=name)
    with pytest.raises(SystemError, match="retain_graph=True"):
        loss.backward()


def test_memory_is_kept_as_long_as_the_graph():
    model = accelerated(network())
    x, y = batch()

    def busy():
        return sum(block.busy for block in memory.POOL._blocks)

    before = busy()
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    assert busy() == before + 1
    loss.backward()
    assert busy() == before
    loss = F.cross_entropy(model(x), y)
    assert busy() == before + 1
    del loss
    assert busy() == before


def test_gradient_of_one_parameter():
    stock, fused = network(), accelerated(network())
    x, y = batch()
    for i in (0, 6, 40):
        ours, theirs = (
            paddle.grad(F.cross_entropy(m(x), y), [plan(m.units())[0].steps[i].conv.weight]) for m in (fused, stock)
        )
        assert np.linalg.norm((ours[0] - theirs[0]).numpy()) <= 1e-2 * np.linalg.norm(theirs[0].numpy())
    with pytest.raises(RuntimeError, match="create_graph"):
        paddle.grad(fused(x).sum(), [fused.parameters()[0]], create_graph=True)


def test_backward_after_the_optimizer_has_stepped():
    """Stock operators read weights, scales and layer scales as they are by then; so do the fused ones."""

    def gradients(fused):
        paddle.seed(3)
        with paddle.utils.unique_name.guard():
            form = mobilenet_v4.Form(layer_scale=0.5, drop_path_rate=0.3)
            units = [
                mobilenet_v1.ConvBNLayer(3, 3, 8, 1, 1, name="f"),
                mobilenet_v4.UniversalInvertedBottleneck(8, mobilenet_v4.UIB(8, 24, 3, 5), name="u", form=form),
                mobilenet_v3.ResidualUnit(8, 24, 8, 5, name="g", num_squeezed=6),
            ]
            model = Chain(units)
        if fused:
            accelerated(model)
        paddle.seed(5)
        loss = (model(paddle.randn([4, 3, 12, 12])) ** 2).sum()
        loss.backward(retain_graph=True)
        optimizer = paddle.optimizer.Momentum(0.05, parameters=model.parameters())
        optimizer.step()
        optimizer.clear_grad()
        loss.backward()
        return {name: p.grad.numpy() for name, p in model.named_parameters() if not p.stop_gradient}

    stock = gradients(False)
    for name, ours in gradients(True).items():
        assert np.linalg.norm(ours - stock[name]) <= 1e-3 * np.linalg.norm(stock[name]) + 1e-4, name


def test_what_changed_in_place_is_not_differentiated():
    model = accelerated(network())
    loss = model(batch()[0]).sum()
    with paddle.no_grad():
        model.conv1._conv.weight.scale_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Halved(mobilenet_v1.MobileNetV1):
    def forward(self, x):
        return super().forward(x)[:, :2]


class Fewer(mobilenet_v1.MobileNetV1):
    def units(self):
        return super().units()[:2]


class Doubled(mobilenet_v1.MobileNetV1):
    def head(self, x):
        return 2 * super().head(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    ((Halved, "Halved has a forward of its own"), (Fewer, "Fewer has its own units"), (Doubled, None)),
)
def test_subclasses(kind, reason):
    with paddle.utils.unique_name.guard():
        model = kind(scale=0.25, class_num=4, prefix_name=kind.__name__)
    x, _ = batch()
    before = model(x)
    report = accelerate(model)
    assert report.accelerated == (reason is None) and (reason or "fused") in report.message
    assert model(x).shape == before.shape
    np.testing.assert_allclose(model(x).numpy(), before.numpy(), atol=1e-3)


def test_a_replaced_forward_is_kept():
    model = network()
    former = model.forward
    model.forward = lambda x: former(x)[:, :2]
    report = accelerate(model)
    assert not report.accelerated and "was replaced" in report.message and model(batch()[0]).shape == [4, 2]
    model = accelerated(network())
    unit = model.conv9
    unit.forward = lambda x: type(unit).forward(unit, x) * 0
    assert float(model(batch()[0]).std()) < 1e-6 + float(paddle.std(model.out.bias))


def small():
    paddle.seed(3)
    with paddle.utils.unique_name.guard():
        return Chain(
            [mobilenet_v1.ConvBNLayer(3, 3, 8, 2, 1, name="f"), mobilenet_v1.DepthwiseSeparable(8, 5, 1, name="s")]
        )


@pytest.mark.parametrize("full_graph", (None, True))
def test_to_static(full_graph):
    stock, fused = small(), paddle.jit.to_static(accelerated(small()), full_graph=full_graph)
    x, y = batch(size=16)
    losses = [m(x).sum() for m in (fused, stock)]
    for loss in losses:
        loss.backward()
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-4)
    ours, theirs = (m.layers[0].conv.weight.grad.numpy() for m in (fused, stock))
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


def test_pickled_float64_and_static_mode():
    model = accelerated(network())
    x, _ = batch()
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(twin(x).numpy(), model(x).numpy(), atol=1e-4)
    assert accelerate(twin).accelerated
    paddle.set_default_dtype("float64")
    try:
        assert model(x).dtype == paddle.float32
        double = small()
        assert "float32" in accelerate(double).message and double(x.astype("float64")).dtype == paddle.float64
    finally:
        paddle.set_default_dtype("float32")
    paddle.enable_static()
    try:
        assert "static" in accelerate(model).message
    finally:
        paddle.disable_static()


def test_proof_leaves_statistics_alone():
    """use_global_stats=False updates them in evaluation mode too, in units that run stock as well."""
    model = network()
    norms = [model.conv1._batch_norm, model.conv9._batch_norm]
    model.conv9._activation = F.sigmoid
    for norm in norms:
        norm._use_global_stats = False
    before = [norm._mean.numpy().copy() for norm in norms]
    assert "1 of 19 units stock" in accelerate(model).message
    for norm, mean in zip(norms, before):
        np.testing.assert_array_equal(norm._mean.numpy(), mean)


def test_what_somebody_changed_runs_stock_and_the_rest_fused():
    with paddle.utils.unique_name.guard():
        units = [mobilenet_v3.ResidualUnit(c, 9, 6, 5, name=f"u{c}", num_squeezed=4) for c in (3, 6)]
        model = Chain(units)
    assert "fused" in accelerate(model).message and accelerate(model).layers == 6
    units[1].mid_se.forward = lambda x: x
    report = accelerate(model)
    assert (
        report.layers == 3 and "1 of 2 units stock (the forward of a SqueezeExcitation was replaced)" in report.message
    )
    del units[1].mid_se.forward
    units[1].linear_conv.conv.register_forward_post_hook(lambda layer, inputs, out: out * 0)
    assert "has hooks" in accelerate(model).message


class Own(paddle.nn.Layer):
    """A user's unit, of layers that are known."""

    computes = computes.Chain("widen", "narrow")

    def __init__(self, name):
        super().__init__()
        self.shortcut = True
        self.widen = mobilenet_v1.ConvBNLayer(3, 1, 9, 1, 0, name=f"{name}_widen")
        self.narrow = mobilenet_v1.ConvBNLayer(9, 1, 3, 1, 0, name=f"{name}_narrow", activation=None)

    def forward(self, x):
        return x + self.narrow(self.widen(x))


class Other(Own):
    def forward(self, x):
        return super().forward(x) * 2


class Sized(Own):
    """Works on maps of one size only."""

    def forward(self, x):
        return x.reshape([0, 3, 8, 8]) * 2


class Liar(Own):
    computes = computes.Chain("widen", "narrow")

    def forward(self, x):
        return self.narrow(self.widen(x)) * 2


def test_units_say_what_they_compute():
    with paddle.utils.unique_name.guard():
        model, lying = Chain([Own("a"), Other("b"), Sized("d"), Own("e")]), Chain([Liar("c")])
    report = accelerate(model)
    assert report.layers == 4 and "2 of 4 units stock (Other has a forward of its own)" in report.message
    x = paddle.randn([2, 3, 8, 8])
    np.testing.assert_allclose(model(x).numpy(), type(model).forward(model, x).numpy(), atol=1e-4)
    assert "departs from stock's" in accelerate(lying).message


def test_number_of_threads():
    for threads in (0, -1, 1.5, 10**6):
        with pytest.raises(UserError, match="1 to 1024"):
            accelerate(network(), threads=threads)


@pytest.mark.parametrize(
    ("change", "fault"),
    (
        ({"count": 0}, 2),
        ({"count": 513}, 2),
        ({"images": 0}, 2),
        ({"threads": 0}, 2),
        ({"threads": 5000}, 2),
        ({"kind": 4}, 3),
        ({"kind": 2}, 3),
        ({"kind": 0, "kernel": 7}, 3),
        ({"kind": 2, "kernel": 3}, 4),
        ({"kind": 3, "kernel": 3, "before_h": 2}, 4),
        ({"after": 3}, 3),
        ({"after": 8}, 3),
        ({"after": 1, "squeezed": 0}, 4),
        ({"after": 1, "squeezed": 2}, 1),
        ({"after": 2}, 1),
        ({"activation": -1}, 3),
        ({"activation": 4}, 3),
        ({"stride": 3}, 3),
        ({"stride": 2}, 3),
        ({"c_in": 0}, 4),
        ({"h_out": 8}, 4),
        ({"h_in": 2**30, "h_out": 2**30, "w_in": 2**30, "w_out": 2**30}, 4),
        ({"weight": None}, 1),
        ({"residual": -1}, 5),
        ({"residual": 7}, 5),
    ),
    ids=str,
)
def test_the_library_checks_for_itself(change, fault):
    memory = (ctypes.c_float * 4096)()
    here = ctypes.addressof(memory)
    layer = run._Layer(
        kind=1, c_in=4, c_out=5, kernel=1, stride=1, h_in=7, w_in=6, h_out=7, w_out=6, residual=-2, running=1
    )
    for name in ("weight", "gamma", "beta", "mean", "variance"):
        setattr(layer, name, here)
    described = run._Run(ctypes.pointer(layer), 1, 2, 1, 0, 0)
    sizes = run._Sizes()
    assert LIBRARY.ppm_sizes(ctypes.byref(described), ctypes.byref(sizes)) == 0 and sizes.saved > 0
    for name, value in change.items():
        setattr(described if hasattr(described, name) else layer, name, value)
    described.layers = ctypes.pointer(layer)
    assert LIBRARY.ppm_sizes(ctypes.byref(described), ctypes.byref(sizes)) == fault
    room = [ctypes.c_void_p(here)] * 4
    assert LIBRARY.ppm_forward(0, ctypes.byref(described), *room) == fault
    assert LIBRARY.ppm_backward(0, ctypes.byref(described), *room, None) == fault
    assert not any(memory)


def test_factors_that_were_not_drawn():
    memory = (ctypes.c_float * 4096)()
    here = ctypes.addressof(memory)
    layer = run._Layer(
        kind=1, c_in=4, c_out=5, kernel=1, stride=1, h_in=2, w_in=2, h_out=2, w_out=2, residual=-2, after=4
    )
    for name in ("weight", "gamma", "beta", "mean", "variance"):
        setattr(layer, name, here)
    described = run._Run(ctypes.pointer(layer), 1, 2, 1, 0, 0)
    assert LIBRARY.ppm_forward(0, ctypes.byref(described), *[ctypes.c_void_p(here)] * 4) == 1
