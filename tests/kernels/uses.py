"""What programs do with a network and its graph; each returns what a user could look at."""

from __future__ import annotations

import copy
import pickle
import threading

import paddle
import paddle.nn.functional as F
from made_up_uses import NAME, NoisyUnit, convs, norms, widths
from paddle import nn

from ppmobilenet.kernels import accelerate
from ppmobilenet.models import mobilenet_v1


def forward(case, model, x):
    out = model(x)
    return {"out": out, "stop_gradient": str(out.stop_gradient), "dtype": str(out.dtype)}


def backward(case, model, x):
    out = model(x)
    case.loss(out).backward()
    return {"out": out, "x": x.grad}


def retained(case, model, x):
    loss = case.loss(model(x))
    for _ in range(int(case.rng(5).integers(1, 4))):
        loss.backward(retain_graph=True)
    loss.backward()
    return {"x": x.grad}


def exhausted(case, model, x):
    loss = case.loss(model(x))
    loss.backward()
    loss.backward()
    return {}


def _some(case, model, x):
    rng = case.rng(6)
    chosen = [p for p in model.parameters() if not p.stop_gradient and rng.random() < 0.3]
    return chosen + ([x] if case.pixels else []) or list(model.parameters())[-1:]


def partial(case, model, x):
    loss = case.loss(model(x))
    found = {}
    for i in range(2):
        gradients = paddle.grad(loss, _some(case, model, x), retain_graph=i == 0, allow_unused=True)
        found.update({f"grad{i}.{k}": g for k, g in enumerate(gradients)})
    return found


def without(case, model, x):
    trained = [p for p in model.parameters() if not p.stop_gradient]
    kept = trained[:1]
    gradients = paddle.grad(case.loss(model(x)), kept, no_grad_vars=trained[3:5] or None, allow_unused=True)
    return {f"grad{k}": g for k, g in enumerate(gradients)}


def second(case, model, x):
    gradients = paddle.grad(case.loss(model(x)), _some(case, model, x), create_graph=True, allow_unused=True)
    sum((g * g).sum() for g in gradients if g is not None).backward()
    return {"x": x.grad}


def tensor_hooks(case, model, x):
    seen = []
    for p in model.parameters():
        if not p.stop_gradient and case.rng(7).random() < 0.5:
            p.register_hook(lambda g: (seen.append(list(g.shape)), g * 2)[1])
    out = model(x)
    if not out.stop_gradient:
        out.register_hook(lambda g: g * 3)
    case.loss(out).backward()
    return {"x": x.grad, "seen": sorted(seen)}


def layer_hooks(case, model, x):
    seen, rng = [], case.rng(8)
    layers = model.sublayers()
    layer = layers[int(rng.integers(len(layers)))]
    if rng.random() < 0.5:
        layer.register_forward_post_hook(lambda layer, inputs, out: (seen.append(list(out.shape)), out * 2)[1])
    else:
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(list(inputs[0].shape)))
    out = model(x)
    case.loss(out).backward()
    return {"out": out, "seen": seen}


def watched_out(case, model, x):
    hook = model.register_forward_post_hook(lambda layer, inputs, out: out + 1)
    out = model(x)
    hook.remove()
    return {"out": out, "again": model(x)}


def deepcopied(case, model, x):
    twin = copy.deepcopy(model)
    for p in twin.parameters():
        p.set_value(p * 0.5)
    out = twin(x)
    case.loss(out).backward()
    return {"out": out, "own": model(x), **{f"twin.{n}": p.grad for n, p in twin.named_parameters()}}


def pickled(case, model, x):
    twin = pickle.loads(pickle.dumps(model))
    out = twin(x)
    case.loss(out).backward()
    return {"out": out, **{f"twin.{n}": p.grad for n, p in twin.named_parameters()}}


def compiled(case, model, x):
    paddle.jit.to_static(model, full_graph=bool(case.number % 2))
    return backward(case, model, x)


def replaced_forward(case, model, x):
    former = model.forward
    model.forward = lambda y: former(y) + 1
    return backward(case, model, x)


def replaced_before(case, model, x):
    target = (model, model.units()[0], convs(model)[-1])[case.number % 3]
    former = target.forward
    target.forward = lambda y: former(y) * 2
    accelerate(model)
    return backward(case, model, x)


def replaced_layer(case, model, x):
    model.fc = nn.Linear(model.fc.weight.shape[0], 2)
    for p in model.fc.parameters():
        p.set_value(p * 0 + 0.5)
    if case.kind == "chain":
        with paddle.utils.unique_name.guard(f"other{case.number}_"):
            kind = NoisyUnit if case.number % 2 else mobilenet_v1.ConvBNLayer
            c_in, c_out = convs(model.layers[-1])[0]._in_channels, widths(model)[-1]
            model.layers[-1] = kind(c_in, 1, c_out, 1, 0, name=NAME("n"))
            model.layers[-1].conv.weight.set_value(model.layers[-1].conv.weight * 0 + 0.1)
    return backward(case, model, x)


def replaced_weight(case, model, x):
    conv = convs(model)[int(case.rng(9).integers(len(convs(model))))]
    shape = [max(1, s - int(case.rng(10).integers(0, 3))) for s in conv.weight.shape]
    if case.number % 2:
        conv.weight = paddle.create_parameter(shape, "float32", default_initializer=nn.initializer.Constant(0.1))
    else:
        norm = norms(model)[-1]
        norm.weight = paddle.create_parameter([shape[0]], "float32", default_initializer=nn.initializer.Constant(1.0))
    return backward(case, model, x)


def other_type(case, model, x):
    target = model if case.number % 2 else norms(model)[0]
    target.to(dtype="float64")
    return backward(case, model, x.astype("float64") if case.number % 4 == 1 else x)


def changed_between(case, model, x):
    loss = case.loss(model(x))
    tensors = [*model.parameters(), x]
    changed = tensors[int(case.rng(11).integers(len(tensors)))]
    with paddle.no_grad():
        changed.scale_(1.5)
    loss.backward()
    return {}


def stepped_between(case, model, x):
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())  # a step that shows
    loss = case.loss(model(x))
    loss.backward(retain_graph=True)
    optimizer.step()
    optimizer.clear_grad()
    loss.backward()
    return {}


def trained(case, model, x):
    optimizer = paddle.optimizer.Momentum(1e-3, parameters=model.parameters())
    for _ in range(3):
        case.loss(model(x)).backward()
        optimizer.step()
        optimizer.clear_grad()
    return {name: p for name, p in model.named_parameters()}


def interleaved(case, model, x):
    losses = [case.loss(model(x)), case.loss(model(x * 2))]
    for loss in losses if case.number % 2 else losses[::-1]:
        loss.backward()
    return {"x": x.grad}


def forgotten(case, model, x):
    for _ in range(3):
        model(x)
    return backward(case, model, x)


def from_threads(case, model, x):
    found = {}
    for p in model.parameters():
        p.stop_gradient = True  # two threads' gradients would add up in any order
    model.eval()

    def answer(i):
        try:
            found[f"out{i}"] = model(x * (i + 1))
        except Exception as error:
            found[f"out{i}"] = type(error).__name__

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def float64_by_default(case, model, x):
    paddle.set_default_dtype("float64")
    try:
        return backward(case, model, x)
    finally:
        paddle.set_default_dtype("float32")


def static_mode(case, model, x):
    paddle.enable_static()
    try:
        accelerate(model)
    finally:
        paddle.disable_static()
    return backward(case, model, x)


def mixed_precision(case, model, x):
    with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        out = model(x)
    case.loss(out).backward()
    return {"out": out, "dtype": str(out.dtype)}


def called_otherwise(case, model, x):
    call = (lambda: model(x=x), lambda: model(x.numpy()), lambda: model(), lambda: model(x, x), lambda: model([x]))
    return {"out": call[case.number % len(call)]()}


def changed_out(case, model, x):
    out = model(x)
    out.scale_(2.0)
    case.loss(paddle.transpose(out, [1, 0])[::2]).backward()
    return {"out": out, "x": x.grad}


def activation_changed(case, model, x):
    for layer in model.sublayers():
        if hasattr(layer, "_activation"):
            layer._activation = (F.sigmoid, F.relu, None)[case.number % 3]
    return backward(case, model, x)


WEIGHTS = {
    **{forward: 4, backward: 12, retained: 6, exhausted: 2, partial: 8, without: 2, second: 3, tensor_hooks: 4},
    **{layer_hooks: 4, watched_out: 1, deepcopied: 3, pickled: 3, compiled: 0.15, replaced_forward: 1},
    **{replaced_before: 2, replaced_layer: 2, replaced_weight: 4, other_type: 2, changed_between: 5},
    **{stepped_between: 2, trained: 2, interleaved: 3, forgotten: 1, from_threads: 2, float64_by_default: 1},
    **{static_mode: 1, mixed_precision: 1, called_otherwise: 2, changed_out: 2, activation_changed: 2},
}
USES = {use.__name__: use for use in WEIGHTS}
WEIGHTS = {use.__name__: weight for use, weight in WEIGHTS.items()}
for own in ("own_forward", "own_head", "own_units", "own_unit"):
    USES[own], WEIGHTS[own] = backward, 1.0
