"""Other layouts' names and shapes -> ours.

Every file is first read into one neutral spelling: ``stem``, ``block.0`` ... ``block.N``, ``last`` (V2's final 1x1
convolution) and ``head``; a block has ``expand`` (V2), ``dw`` and ``out`` (1x1, linear in V2); each convolution with
its batch norm has ``weight``, ``scale``, ``offset``, ``mean``, ``variance``. So ``block.3.dw.mean`` is the running
mean after the fourth block's depthwise convolution, whoever wrote the file. A model's own keys are read in the same
way; loading is matching neutral names.

A scheme, a row of :data:`.schemes.SCHEMES`, is where a layout keeps each of these. It is recognised by keys and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.weights.schemes import AUTOMATIC, DIMENSIONS, PLACES, SCHEME_NAMES, SCHEMES, Scheme

# all published MobileNets' batch norm; a layer scaled by sqrt(1 + EPSILON) with variance 1 is the identity
EPSILON = 1e-5
IDENTITY_SCALE = np.float32(sqrt(1.0 + EPSILON))
TRAINED = 1e-2  # an offset above it: where scales have moved by less than 1e-5, so have offsets of about 1e-4 at most

# put before every key by wrappers: DataParallel, paddle.DataParallel, torch.compile, Lightning and hand-written ones
WRAPPERS = ("module.", "_layers.", "_orig_mod.", "model.", "net.", "network.", "encoder.")
# put before the keys of the part that is a MobileNet, in files that hold more
PARTS = ("Student.", "student.", "backbone.")


@dataclass
class Layout:
    """How a file's keys read.

    Attributes:
        scheme: the scheme's name.
        text: whose layout that is.
        family: ``"MobileNetV1"`` or ``"MobileNetV2"``.
        torch: classifier weights are [out, in].
        keys: neutral name -> the file's key.
        ignored: the file's keys that are no part of the network, with the reason: ``{"Teacher.fc.weight": "..."}``.
        misfits: the file's keys that the scheme has no place for.
    """

    scheme: str
    text: str
    family: str
    torch: bool
    keys: dict[str, str]
    ignored: dict[str, str] = field(default_factory=dict)
    misfits: tuple[str, ...] = ()


def strip_prefixes(keys: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return name without prefixes -> key, and the keys outside the MobileNet part with the reason."""
    names = {key: key for key in keys}
    outside: dict[str, str] = {}
    changed = True
    while changed and names:
        changed = False
        for prefix in WRAPPERS:
            if all(name.startswith(prefix) for name in names):
                names = {name[len(prefix) :]: key for name, key in names.items()}
                changed = True
        for prefix in PARTS:
            if any(name.startswith(prefix) for name in names):
                outside.update({key: f"outside {prefix!r}" for n, key in names.items() if not n.startswith(prefix)})
                names = {n[len(prefix) :]: key for n, key in names.items() if n.startswith(prefix)}
                changed = True
    return names, outside


def _patterns(scheme: Scheme) -> list[tuple[re.Pattern, str, str]]:
    """(key pattern, neutral unit, kind of layer) in the scheme's order."""
    rows = [(unit, "conv", conv) for unit, conv, _ in scheme.layers]
    rows += [(unit, "norm", norm) for unit, _, norm in scheme.layers]
    rows += [("head", "head", head) for head in scheme.heads]
    rows.sort(key=lambda row: row[2].count("<"))  # "features.1." before "features.<i>."
    patterns = []
    for unit, kind, template in rows:
        pattern = re.escape(template)
        for place, regex in PLACES.items():
            pattern = pattern.replace(place, regex)
        ends = "|".join(re.escape(end) for end in scheme.ends[kind])
        patterns.append((re.compile(f"{pattern}(?P<end>{ends})"), unit, kind))
    return patterns


_COMPILED = {scheme.name: _patterns(scheme) for scheme in SCHEMES}


def _read(scheme: Scheme, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict, list, list]:
    """Read names by one scheme: (neutral -> key, keys of no meaning for us, keys that do not fit)."""
    found: dict[tuple, str] = {}
    steps, misfits = [], []
    for name, key in names.items():
        for pattern, unit, kind in _COMPILED[scheme.name]:
            match = pattern.fullmatch(name)
            if not match:
                continue
            role = scheme.ends[kind][match["end"]]
            if scheme.torch and match["end"] in ("._mean", "._variance"):
                continue
            if not scheme.torch and match["end"].startswith(".running"):
                continue
            if len(shapes[key]) != DIMENSIONS[kind].get(role, 1) and role != "steps":
                continue
            if role == "steps":
                steps.append(key)
                break
            groups = match.groupdict()
            place = (int(groups.get("s") or 0), int(groups.get("i") or 1))
            found[unit, place if unit in ("expand", "dw", "out") else None, role] = key
            break
        else:
            misfits.append(key)
    places = sorted({place for _, place, _ in found if place})
    number = {place: i for i, place in enumerate(places)}
    neutral = {
        f"block.{number[place]}.{unit}.{role}" if place else f"{unit}.{role}": key
        for (unit, place, role), key in found.items()
    }
    return neutral, steps, misfits


def read_layout(arrays: Mapping[str, object], scheme: str | None = None, source: object = None) -> Layout:
    """Recognise whose layout a file's keys and shapes are.

    Args:
        arrays: key -> anything with a ``shape``.
        scheme: force this one of :data:`SCHEME_NAMES`.
        source: the file, for messages.

    Raises:
        UserError: an unknown scheme's name, or keys that are no MobileNetV1's or V2's, saying what they look like.
    """
    if scheme is not None and scheme not in SCHEME_NAMES:
        raise UserError(f"unknown naming scheme {scheme!r}", hint=did_you_mean(scheme, SCHEME_NAMES))
    names, outside = strip_prefixes(arrays)
    shapes = {key: tuple(arrays[key].shape) for key in names.values()}
    best = None
    for candidate in SCHEMES:
        if scheme not in (None, candidate.name):
            continue
        neutral, steps, misfits = _read(candidate, names, shapes)
        turned = _turned(neutral, shapes, candidate.torch)
        rank = (_whole_blocks(neutral), len(neutral) + len(steps), not turned)
        if best is None or rank > best[0]:
            best = (rank, candidate, neutral, steps, misfits)
    if scheme in (None, AUTOMATIC) and (best is None or best[4]):
        automatic = _automatic(names, shapes, outside)
        if automatic is not None:
            return automatic
    if best is None or not best[2] or (scheme is None and len(best[4]) > len(best[2]) // 2):
        raise UserError(what_it_is(names) if scheme is None else _not_that(scheme, arrays), where=source)
    _, found, neutral, steps, misfits = best
    ignored = dict(outside)
    ignored.update({key: "PyTorch's count of steps" for key in steps})
    return Layout(found.name, found.text, found.family, found.torch, neutral, ignored, tuple(misfits))


def _whole_blocks(neutral: Mapping[str, str]) -> int:
    """How many blocks have what every block has: a scheme that reads the keys wrongly finds others."""
    blocks = {name.rsplit(".", 2)[0] for name in neutral if name.startswith("block.")}
    return sum(f"{block}.dw.weight" in neutral and f"{block}.out.weight" in neutral for block in blocks)


def _turned(neutral: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], torch: bool) -> bool:
    """Whether the classifier's weight is the other framework's way round, as far as its shape tells."""
    head, bias = neutral.get("head.weight"), neutral.get("head.bias")
    if head is None or bias is None:
        return False
    classes = shapes[bias][0]
    rows, columns = shapes[head]
    return rows != columns and (columns if torch else rows) == classes


_AUTOMATIC_NAME = re.compile(
    r"(?P<kind>conv2d|depthwise_conv2d|batch_norm2d|batch_norm|linear|fc)_(?P<n>\d+)\.(?P<end>[wb]_\d)(?:_deepcopy_\d+)?"
)
_AUTOMATIC_ENDS = {
    "conv": {"w_0": "weight", "b_0": "bias"},
    "norm": {"w_0": "scale", "b_0": "offset", "w_1": "mean", "w_2": "variance"},
    "head": {"w_0": "weight", "b_0": "bias"},
}


def _automatic(names: Mapping[str, str], shapes: Mapping, ignored: Mapping[str, str]) -> Layout | None:
    """Read Paddle's automatic names (``conv2d_3.w_0``) by position, if the shapes are those of a MobileNet."""
    layers: dict[str, dict[int, dict[str, str]]] = {"conv": {}, "norm": {}, "head": {}}
    for name, key in names.items():
        match = _AUTOMATIC_NAME.fullmatch(name)
        if not match:
            return None
        kind = "conv" if "conv" in match["kind"] else "norm" if "norm" in match["kind"] else "head"
        role = _AUTOMATIC_ENDS[kind].get(match["end"])
        if role is None:
            return None
        layers[kind].setdefault(int(match["n"]), {})[role] = key
    convs = [layers["conv"][n] for n in sorted(layers["conv"])]
    norms = [layers["norm"][n] for n in sorted(layers["norm"])]
    heads = [layers["head"][n] for n in sorted(layers["head"])]
    if not convs or any("weight" not in c for c in convs) or len(heads) > 1 or len(norms) not in (0, len(convs)):
        return None
    units = _units_in_order([shapes[c["weight"]] for c in convs])
    if units is None:
        return None
    keys = {}
    for i, (unit, conv) in enumerate(zip(units, convs)):
        keys.update({f"{unit}.{role}": key for role, key in conv.items()})
        if norms:
            keys.update({f"{unit}.{role}": key for role, key in norms[i].items()})
    for head in heads:
        keys.update({f"head.{role}": key for role, key in head.items()})
    family = "MobileNetV2" if "last" in units else "MobileNetV1"
    text = f"Paddle's automatic names, {family} by the order and shapes of its convolutions"
    return Layout(AUTOMATIC, text, family, False, keys, dict(ignored))


def _units_in_order(shapes: list[tuple[int, ...]]) -> list[str] | None:
    """Name a MobileNet's convolutions from their order and shapes; None if it is none."""
    kinds = []
    for shape in shapes:
        kinds.append("d" if shape[1:] == (1, 3, 3) else "p" if shape[2:] == (1, 1) else "c")
    text = "".join(kinds)
    if re.fullmatch("c(dp)+", text):
        blocks = [("dw", "out")] * text.count("d")
    elif match := re.fullmatch("c(p?dp)((?:pdp)+)p", text):
        first = ("expand", "dw", "out") if len(match[1]) == 3 else ("dw", "out")
        blocks = [first] + [("expand", "dw", "out")] * (len(match[2]) // 3)
    else:
        return None
    units = ["stem"] + [f"block.{i}.{unit}" for i, block in enumerate(blocks) for unit in block]
    return units + (["last"] if len(units) < len(shapes) else [])


# what else a file may be: a pattern that some key matches -> its name
OTHERS = (
    (r"(^|\.)(mid_se|se)\.(conv|fc)|\.block\.\d\.fc1|hardswish|\.se\.conv_reduce.*conv_head\.bias", "MobileNetV3"),
    (r"^layer[1-4]\.\d+\.conv\d|^res\d[a-z]|bb_\d_\d\.conv", "a ResNet"),
    (r"^_blocks\.|\.conv_reduce\.", "an EfficientNet"),
    (r"denseblock", "a DenseNet"),
    (r"attn\.qkv|\.qkv\.", "a vision transformer"),
    (r"^features\.\d+\.(weight|bias)$", "a VGG or AlexNet"),
    (r"pp_lcnet|blocks[2-6]\.\d+\.dw_conv", "a PP-LCNet"),
)


def what_it_is(names: Iterable[str]) -> str:
    """Say in one line that these keys are no MobileNetV1's or V2's, and what they look like."""
    names = list(names)
    for pattern, text in OTHERS:
        matching = [name for name in names if re.search(pattern, name)]
        if matching:
            return f"these are the weights of {text} (it has {matching[0]!r}), not of a MobileNetV1 or V2"
    shown = ", ".join(names[:4])
    return f"its {len(names)} keys are no MobileNetV1's or V2's that is known: {shown[:200]}, ..."


def _not_that(scheme: str, arrays: Mapping) -> str:
    return f"its keys ({', '.join(list(arrays)[:3])[:160]}, ...) do not read as {scheme!r}"


def neutral_arrays(layout: Layout, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
    """Return neutral name -> array as Paddle keeps it, and whether the file's batch norm was folded away.

    A folded convolution (weight and bias, no batch norm) becomes one with an identity batch norm whose offset is the
    bias. A bias in front of a batch norm goes into its mean. Classifier weights become [in, out].
    """
    made = {name: arrays[key] for name, key in layout.keys.items()}
    folded = False
    for name in [n for n in made if n.endswith(".bias") and n != "head.bias"]:
        unit = name[: -len(".bias")]
        bias = made.pop(name)
        if f"{unit}.mean" in made:
            made[f"{unit}.mean"] = made[f"{unit}.mean"] - bias
        elif f"{unit}.scale" not in made:
            folded = True
            made.update(identity_norm(unit, len(bias)))
            made[f"{unit}.offset"] = bias
    if layout.torch and "head.weight" in made:
        made["head.weight"] = made["head.weight"].T
    return made, folded


def identity_norm(unit: str, channels: int) -> dict[str, np.ndarray]:
    """Return a batch norm that changes nothing in eval mode."""
    return {
        f"{unit}.scale": np.full(channels, IDENTITY_SCALE, np.float32),
        f"{unit}.offset": np.zeros(channels, np.float32),
        f"{unit}.mean": np.zeros(channels, np.float32),
        f"{unit}.variance": np.ones(channels, np.float32),
    }


def identity_expansion(channels: int) -> dict[str, np.ndarray]:
    """Return the expand convolution of V2's first block that changes nothing.

    torchvision and its kin leave that convolution out (its factor is 1). Its input comes from an activation and lies
    in [0, 6], where ReLU6 and ReLU change nothing, so the identity reproduces them exactly.
    """
    weight = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    return {"block.0.expand.weight": weight, **identity_norm("block.0.expand", channels)}


def is_identity_expansion(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the neutral arrays of the first block's expansion change nothing, its batch norm recalibrated or not."""
    weight, scale, offset, mean, variance = (
        arrays[f"block.0.expand.{role}"] for role in ("weight", "scale", "offset", "mean", "variance")
    )
    factor = scale / np.sqrt(variance + EPSILON)
    return bool(
        np.array_equal(weight[:, :, 0, 0], np.eye(*weight.shape[:2]))
        and np.allclose(factor, 1, atol=1e-5)
        and np.allclose(offset, mean * factor, atol=1e-5)
    )


def norm_is_folded(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether neutral arrays hold identity batch norms throughout: right in eval mode only.

    Statistics that no training has touched are 0 and 1, too, with scales of 1: what was folded has offsets beside.
    """
    units = {n[: -len(".variance")] for n in arrays if n.endswith(".variance")} - {"block.0.expand"}
    if not units or any(f"{u}.{part}" not in arrays for u in units for part in ("mean", "scale")):
        return False
    if any(arrays[f"{u}.mean"].any() or (arrays[f"{u}.variance"] != 1).any() for u in units):
        return False
    scales = [arrays[f"{u}.scale"] for u in units]
    if all(np.allclose(scale, IDENTITY_SCALE, rtol=0, atol=1e-6) for scale in scales):
        return True
    offsets = (np.abs(arrays[f"{u}.offset"]).max() for u in units if f"{u}.offset" in arrays)
    return all(np.allclose(scale, 1.0, rtol=0, atol=1e-5) for scale in scales) and max(offsets, default=0) > TRAINED
