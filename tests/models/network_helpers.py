"""Networks with weights that make a comparison mean something."""

from __future__ import annotations

import hashlib

import numpy as np
import paddle


def randomise(model, seed: int = 0) -> None:
    """Fill weights and batch-norm statistics so that activations stay near 1 (at random init V2 gives 1e-7)."""
    rng = np.random.default_rng(seed)
    for key, value in model.state_dict().items():
        shape = value.shape
        if len(shape) == 4:
            new = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif len(shape) == 2:
            new = rng.normal(0, np.sqrt(1 / shape[0]), shape)
        elif key.endswith("_variance") or key.endswith("weight"):
            new = rng.uniform(0.5, 1.5, shape)
        else:
            new = rng.normal(0, 0.3, shape)
        value.set_value(new.astype("float32"))


def photos(n: int = 2, height: int = 32, width: int | None = None, seed: int = 1) -> paddle.Tensor:
    rng = np.random.default_rng(seed)
    return paddle.to_tensor(rng.normal(0, 1, (n, 3, height, width or height)).astype("float32"))


def parameter_names(model) -> list[str]:
    return [p.name for p in model.state_dict().values()]


def trainable(model) -> list:
    """The parameters that learn; ``model.parameters()`` holds batch norm's running statistics too."""
    return [p for p in model.parameters() if not p.stop_gradient]


def size(model) -> int:
    return sum(int(np.prod(p.shape)) for p in trainable(model))


def fingerprint(model) -> dict:
    """What tests/golden/families.json holds of PaddleClas's classes: keys with shapes, and what random weights give."""
    state = model.state_dict()
    randomise(model)
    model.eval()
    with paddle.no_grad():
        logits = model(photos(1, 64)).numpy()
    lines = "\n".join(f"{key} {list(value.shape)}" for key, value in state.items())
    numbers = {"mean": float(logits.mean()), "deviation": float(logits.std()), "first": float(logits[0, 0])}
    return {"entries": len(state), "keys": hashlib.sha256(lines.encode()).hexdigest()[:16], **numbers}
