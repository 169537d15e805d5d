"""Other layouts' names and shapes -> ours.

Every file is first read into one neutral spelling: ``stem``, ``block.0`` ... ``block.N``, what follows the blocks
(``last``, MobileNetV2's final 1x1 convolution) and ``head``; a block has ``expand`` (where it has one), ``dw`` and
``out`` (1x1); each convolution with its batch norm has ``weight``, ``scale``, ``offset``, ``mean``, ``variance``. So
``block.3.dw.mean`` is the running mean after the fourth block's depthwise convolution, whoever wrote the file. A
model's own keys are read in the same way; loading is matching neutral names.

A scheme, a row of a family's :class:`.layouts.Layouts`, is where a layout keeps each of these. It is recognised by keys
and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import sqrt

import numpy as np

from ppmobilenet.errors import UserError, did_you_mean
from ppmobilenet.weights.layouts import LAYOUTS
from ppmobilenet.weights.schemes import AUTOMATIC, DIMENSIONS, EPSILON, PLACES, Scheme

# a batch norm scaled by it with variance 1 is the identity
IDENTITY_SCALE = np.float32(sqrt(1.0 + EPSILON))
TRAINED = 1e-2  # an offset above it: where scales have moved by less than 1e-5, so have offsets of about 1e-4 at most

# put before every key by wrappers: DataParallel, paddle.DataParallel, torch.compile, Lightning and hand-written ones
WRAPPERS = ("module.", "_layers.", "_orig_mod.", "model.", "net.", "network.", "encoder.")
# neutral units that belong to no block begin with one of these
AROUND = ("stem", "last", "head")
# put before the keys of the part that is a MobileNet, in files that hold more
PARTS = ("Student.", "student.", "backbone.")


@dataclass
class Layout:
    """How a file's keys read.

    Attributes:
        scheme: the scheme's name.
        text: whose layout that is.
        family: a key of :data:`.layouts.LAYOUTS`.
        torch: classifier weights are [out, in].
        keys: neutral name -> the file's key.
        ignored: the file's keys that are no part of the network, with the reason: ``{"Teacher.fc.weight": "..."}``.
        misfits: the file's keys that the scheme has no place for.
        activation: that the scheme's networks compute with, where it is not the family's.
        epsilon, computes: as the scheme's.
    """

    scheme: str
    text: str
    family: str
    torch: bool
    keys: dict[str, str]
    ignored: dict[str, str] = field(default_factory=dict)
    misfits: tuple[str, ...] = ()
    activation: str | None = None
    epsilon: float = EPSILON
    computes: Mapping[str, float] = field(default_factory=dict)

    def is_plain(self, unit: str) -> bool:
        """Whether a neutral unit (``block.3.se1``) has a bias and no batch norm."""
        return unit.rsplit(".", 1)[-1] in LAYOUTS[self.family].plain


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


@cache
def _patterns(scheme: Scheme, plain: tuple[str, ...]) -> list[tuple[re.Pattern, str, str]]:
    """(key pattern, neutral unit, kind of layer) in the scheme's order."""
    rows = []
    for unit, template in scheme.layers:
        start, _, ends = template.rstrip("}").partition("{")
        conv, norm = ends.split(",") if ends else ("", "")
        if unit in plain:
            rows.append((unit, "plain", template))
        else:
            kinds = (("conv", conv), ("norm", norm))
            rows += [(unit, kind, start + end) for kind, end in kinds if end or not ends]
    rows.sort(key=lambda row: row[1] == "norm")
    rows += [("head", "head", head) for head in scheme.heads]
    rows.sort(key=lambda row: len(re.findall(r"<\w>", row[2])))  # "features.1." before "features.<i>."
    patterns = []
    for unit, kind, template in rows:
        pattern = re.escape(template)
        for place, regex in PLACES.items():
            pattern = pattern.replace(place, regex)
        pattern = re.sub(r"<([si]):(\d+)>", r"(?P<\1>\2)", pattern)
        ends = "|".join(re.escape(end) for end in scheme.ends[kind])
        patterns.append((re.compile(f"{pattern}(?P<end>{ends})"), unit, kind))
    return patterns


def _read(
    scheme: Scheme, plain: tuple[str, ...], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict, list, list]:
    """Read names by one scheme: (neutral -> key, keys of no meaning for us, keys that do not fit)."""
    found: dict[tuple, str] = {}
    steps, misfits = [], []
    for name, key in names.items():
        for pattern, unit, kind in _patterns(scheme, plain):
            match = pattern.fullmatch(name)
            if not match:
                continue
            role = scheme.ends[kind][match["end"]]
            if scheme.torch and match["end"] in ("._mean", "._variance"):
                continue
            if not scheme.torch and match["end"].startswith(".running"):
                continue
            if len(shapes[key]) not in DIMENSIONS[kind].get(role, (1,)) and role != "steps":
                continue
            if role == "steps":
                steps.append(key)
                break
            groups = match.groupdict()
            place = (int(groups.get("s") or 0), int(groups.get("i") or 1))
            found[unit, None if unit.startswith(AROUND) else place, role] = key
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
        scheme: force this one, by its name.
        source: the file, for messages.

    Raises:
        UserError: an unknown scheme's name, or keys that are of no family here, saying what they look like.
    """
    candidates = [(layouts, row) for layouts in LAYOUTS.values() for row in layouts.schemes]
    known = [row.name for _, row in candidates] + [AUTOMATIC]
    if scheme is not None and scheme not in known:
        raise UserError(f"unknown naming scheme {scheme!r}", hint=did_you_mean(scheme, known))
    names, outside = strip_prefixes(arrays)
    shapes = {key: tuple(arrays[key].shape) for key in names.values()}
    best = None
    for layouts, candidate in candidates:
        if scheme not in (None, candidate.name):
            continue
        neutral, steps, misfits = _read(candidate, layouts.plain, names, shapes)
        turned = _turned(neutral, shapes, candidate.torch)
        rank = (_whole_blocks(neutral), len(neutral) + len(steps), not turned)
        if best is None or rank > best[0]:
            ignored = {**outside, **{key: "PyTorch's count of steps" for key in steps}}
            layout = Layout(candidate.name, candidate.text, layouts.family, candidate.torch, neutral, ignored)
            layout.misfits, layout.activation = tuple(misfits), candidate.activation
            layout.epsilon, layout.computes = candidate.epsilon, candidate.computes
            best = (rank, layout)
    found = best[1] if best else None
    if scheme in (None, AUTOMATIC) and (found is None or found.misfits):
        automatic = _automatic(names, shapes, outside)
        if automatic is not None:
            return automatic
    if found is None or not found.keys or (scheme is None and len(found.misfits) > len(found.keys) // 2):
        raise UserError(what_it_is(names) if scheme is None else _not_that(scheme, arrays), where=source)
    _set_aside(found)
    return found


def _set_aside(layout: Layout) -> None:
    """Ignore, by name, what a static program without our classifier holds beside the trunk: a detector's neck."""
    if layout.scheme.startswith("param-attr") and not any(name.startswith("head.") for name in layout.keys):
        layout.ignored.update(dict.fromkeys(layout.misfits, "beside the trunk, in a file without its classifier"))
        layout.misfits = ()


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
    r"(?P<kind>conv2d|depthwise_conv2d|batch_norm2d|batch_norm|linear|fc|create_parameter)_(?P<n>\d+)\.(?P<end>[wb]_\d)(?:_deepcopy_\d+)?"
)
_AUTOMATIC_ENDS = {
    "conv": {"w_0": "weight", "b_0": "bias"},
    "norm": {"w_0": "scale", "b_0": "offset", "w_1": "mean", "w_2": "variance"},
    "head": {"w_0": "weight", "b_0": "bias"},
    "gamma": {"w_0": "gamma"},
}


def _automatic(names: Mapping[str, str], shapes: Mapping, ignored: Mapping[str, str]) -> Layout | None:
    """Read Paddle's automatic names (``conv2d_3.w_0``) by position, if the shapes are those of a family."""
    layers: dict[str, dict[int, dict[str, str]]] = {kind: {} for kind in _AUTOMATIC_ENDS}
    for name, key in names.items():
        match = _AUTOMATIC_NAME.fullmatch(name)
        if not match:
            return None
        kind = next((kind for kind in ("conv", "norm") if kind in match["kind"]), "head")
        kind = "gamma" if match["kind"] == "create_parameter" else kind
        role = _AUTOMATIC_ENDS[kind].get(match["end"])
        if role is None:
            return None
        layers[kind].setdefault(int(match["n"]), {})[role] = key
    convs, norms, heads, gammas = ([rows[n] for n in sorted(rows)] for rows in layers.values())
    if not convs or any("weight" not in c for c in convs) or len(heads) > 1:
        return None
    kinds = "".join(_letter(shapes[c["weight"]]) for c in convs)
    for family, layouts in LAYOUTS.items():
        text = f"Paddle's automatic names, {family} by the order and shapes of its convolutions"
        layout = Layout(AUTOMATIC, text, family, False, {}, dict(ignored))
        parts = [name.partition(":") for name in layouts.in_order(kinds) or ()]
        normed = [unit for unit, _, alone in parts if alone == "norm" or not (alone or layout.is_plain(unit))]
        scaled = [unit for unit, _, alone in parts if alone == "gamma"]
        if not parts or len(norms) not in (0, len(normed)) or len(gammas) != len(scaled):
            continue
        units = [unit for unit, _, alone in parts if alone in ("", "conv")]
        found = (*zip(units, convs), *zip(normed, norms), *zip(scaled, gammas), *(("head", head) for head in heads))
        for unit, roles in found:
            layout.keys.update({f"{unit}.{role}": key for role, key in roles.items()})
        return layout
    return None


def _letter(shape: tuple[int, ...]) -> str:
    """``p`` for a 1x1 convolution's weight, ``d`` for a depthwise one's, ``c`` for another's."""
    return "p" if shape[2:] == (1, 1) else "d" if shape[1] == 1 else "c"


# what else a file may be: a pattern that some key matches -> its name
OTHERS = (
    (r"^layer[1-4]\.\d+\.conv\d|^res\d[a-z]|bb_\d_\d\.conv", "a ResNet"),
    (r"^_blocks\.|\.conv_reduce\.", "an EfficientNet"),
    (r"denseblock", "a DenseNet"),
    (r"attn\.qkv|\.qkv\.", "a vision transformer"),
    (r"^features\.\d+\.(weight|bias)$", "a VGG or AlexNet"),
    (r"pp_lcnet|blocks[2-6]\.\d+\.dw_conv", "a PP-LCNet"),
)


def what_it_is(names: Iterable[str]) -> str:
    """Say in one line that these keys are of no family here, and what they look like."""
    names, families = list(names), " or ".join(LAYOUTS)
    for pattern, text in OTHERS:
        matching = [name for name in names if re.search(pattern, name)]
        if matching:
            return f"these are the weights of {text} (it has {matching[0]!r}), not of a {families}"
    shown = ", ".join(names[:4])
    return f"its {len(names)} keys are of no {families} that is known: {shown[:200]}, ..."


def _not_that(scheme: str, arrays: Mapping) -> str:
    return f"its keys ({', '.join(list(arrays)[:3])[:160]}, ...) do not read as {scheme!r}"


def neutral_arrays(layout: Layout, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
    """Return neutral name -> array as Paddle keeps it, and whether the file's batch norm was folded away.

    Batch norms of another epsilon get scales that give the same with ours. A folded convolution (weight and bias, no
    batch norm) becomes one with an identity batch norm whose offset is the bias. A bias in front of a batch norm goes
    into its mean. A linear layer that stands for a 1x1 convolution becomes one; classifier weights become [in, out].
    """
    made = {name: arrays[key] for name, key in layout.keys.items()}
    for unit in [n[: -len(".variance")] for n in made if n.endswith(".variance") and layout.epsilon != EPSILON]:
        variance = made[f"{unit}.variance"].astype("float64")
        factor = np.sqrt((variance + EPSILON) / (variance + layout.epsilon))
        made[f"{unit}.scale"] = (made[f"{unit}.scale"] * factor).astype("float32")
    folded = False
    for name in [n for n in made if n.endswith(".bias") and n != "head.bias"]:
        unit = name[: -len(".bias")]
        if layout.is_plain(unit):
            continue
        bias = made.pop(name)
        if f"{unit}.mean" in made:
            made[f"{unit}.mean"] = made[f"{unit}.mean"] - bias
        elif f"{unit}.scale" not in made:
            folded = True
            made.update(identity_norm(unit, len(bias)))
            made[f"{unit}.offset"] = bias
    for name, array in made.items():
        if array.ndim == 2 and name != "head.weight":  # a linear layer for a 1x1 convolution
            made[name] = (array if layout.torch else array.T)[:, :, None, None]
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
    """Return an expand convolution of the first block that changes nothing.

    torchvision's MobileNetV2 and its kin leave that convolution out (its factor is 1). Its input comes from an
    activation and lies in [0, 6], where ReLU6 and ReLU change nothing, so the identity reproduces them exactly.
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
