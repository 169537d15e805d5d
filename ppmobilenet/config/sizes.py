"""One image size: ``Global.resolution`` sets it, and where the file gives several they must agree.

Crops, resize and ``image_shape`` say the same thing in up to seven places, and a deployed model that was prepared for
another size than it was measured with is the commonest way to lose accuracy. Eval and image_shape must agree.
Training may differ (a larger test size than training size is a known gain: Touvron et al. 2019), and is noted. So may
Infer, of which nothing is computed where there is an Eval: PaddleClas's recipes of MobileNetV4 forgot it there.
"""

from __future__ import annotations

from collections.abc import Iterator

from ppmobilenet.config.check import dotted
from ppmobilenet.config.kinds import any_of, integer, list_of
from ppmobilenet.config.reading import Document
from ppmobilenet.errors import UserError

TRAIN = ("DataLoader", "Train", "dataset", "transform_ops")
UNLABELLED = ("DataLoader", "UnLabelTrain", "dataset", "transform_ops")
EVAL = ("DataLoader", "Eval", "dataset", "transform_ops")
INFER = ("Infer", "transforms")
LISTS = (TRAIN, UNLABELLED, EVAL, INFER)

# transforms whose `size` is the [width, height] of what they return, as PaddleClas orders it
SIZED = ("CropImage", "RandCropImage", "RandCropImageV2", "RandomCropImage", "RandomResizedCrop", "ResizeImage")
# what sizes may be, whatever else a transform would take: they are computed with here
SIZES = {"size": any_of(integer(1), list_of(integer(1), 2)), "resize_short": integer(1)}


def settle_sizes(document: Document) -> list[str]:
    """Apply ``Global.resolution`` to the tree, then refuse sizes that disagree. Returns notes for the log."""
    for path in LISTS:
        _check_kinds(document, path)
    resolution = document.tree.get("Global", {}).get("resolution")
    if resolution is not None:
        for path in LISTS:
            _resize_list(document, path, resolution)
        _set(document, ("Global", "image_shape"), [3, resolution, resolution])
    return _agree(document)


def _check_kinds(document: Document, path: tuple) -> None:
    for at, name, keys in entries(document, path):
        for key in SIZES.keys() & keys.keys() if name in SIZED else ():
            try:
                keys[key] is None or SIZES[key].fit(keys[key])
            except ValueError as error:
                raise UserError(
                    f"{dotted((*at, key))} is {keys[key]!r}", where=document.where((*at, key)), allowed=str(error)
                ) from error


def _resize_list(document: Document, path: tuple, resolution: int) -> None:
    """Give every sized transform of a list the resolution, and keep its ratio of resize_short to crop (256/224)."""
    for at, name, keys in entries(document, path):
        if name in SIZED and keys.get("size") is not None:
            before = min(_pair(keys["size"]))
            for short_at, other, short in entries(document, path):
                if other == "ResizeImage" and short.get("resize_short") and before != resolution:
                    scaled = int(round(short["resize_short"] * resolution / before))
                    _set(document, (*short_at, "resize_short"), scaled)
            _set(document, (*at, "size"), resolution)


def _set(document: Document, path: tuple, value: object) -> None:
    *section, key = path
    tree = document.tree
    for part in section:
        tree = tree[part]
    if tree.get(key) == value:
        return
    place, resolution = document.marks.get(path, ""), ("Global", "resolution")
    if place.startswith("-o ") and tree.get(key) is not None:
        raise UserError(
            f"{dotted(path)} is {tree[key]}, but Global.resolution is {document.tree['Global']['resolution']}, "
            f"which makes it {value}",
            where=f"{place}, {document.where(resolution)}",
            hint=f"leave one of the two out: Global.resolution sets {key} by itself",
        )
    tree[key] = value
    document.forget(path)
    document.marks[path] = document.where(resolution)


def _agree(document: Document) -> list[str]:
    found = {}
    for label, path in (("Train", TRAIN), ("Eval", EVAL), ("Infer", INFER)):
        _short_covers_crop(document, path)
        size = _final_size(document, path)
        if size:
            found[label] = size
    shape = document.tree.get("Global", {}).get("image_shape")
    if shape:
        found["image_shape"] = ((shape[2], shape[1]), ("Global", "image_shape"))
    notes = []
    if _is_multi_scale(document):
        found.pop("Train", None)  # its sampler's scales are the sizes
    if "Train" in found and "Eval" in found and found["Train"][0] != found["Eval"][0]:
        (train, train_at), (test, test_at) = found["Train"], found["Eval"]
        notes.append(
            f"training sees {_size(train)} ({document.where(train_at)}), evaluation {_size(test)} "
            f"({document.where(test_at)})"
        )
    found.pop("Train", None)
    if "Eval" in found and "Infer" in found and found["Eval"][0] != found["Infer"][0]:
        (test, test_at), (other, other_at) = found["Eval"], found.pop("Infer")
        notes.append(
            f"{dotted(other_at)} makes images of {_size(other)} ({document.where(other_at)}) and changes nothing: "
            f"what is exported and what infers takes {_size(test)}, as evaluation does ({document.where(test_at)})"
        )
    places = list(found.values())
    for (one, one_at), (other, other_at) in zip(places, places[1:]):
        if one != other:
            raise UserError(
                f"{dotted(one_at)} makes images of {_size(one)}, {dotted(other_at)} says {_size(other)}",
                where=f"{document.where(one_at)}, {document.where(other_at)}",
                hint=f"set every size in one place: -o Global.resolution={one[0]}"
                if one[0] == one[1]
                else "give both the same size",
            )
    return notes


def _short_covers_crop(document: Document, path: tuple) -> None:
    short = None
    for at, name, keys in entries(document, path):
        if name == "ResizeImage":
            short = (keys["resize_short"], (*at, "resize_short")) if keys.get("resize_short") else None
        elif name == "CropImage" and short and keys.get("size") and max(_pair(keys["size"])) > short[0]:
            crop_at = (*at, "size")
            raise UserError(
                f"{dotted(short[1])} is {short[0]}, smaller than the crop {keys['size']} of {dotted(crop_at)}",
                where=f"{document.where(short[1])}, {document.where(crop_at)}",
                hint="resize_short is usually crop * 256 / 224; -o Global.resolution=... sets both",
            )


def _final_size(document: Document, path: tuple) -> tuple[tuple[int, int], tuple] | None:
    """Return ((width, height), path of the key that fixes it) of what a list of transforms makes, if it says."""
    last = None
    for at, name, keys in entries(document, path):
        if name == "ResizeImage" and keys.get("resize_short"):
            last = None  # the long side stays open
        elif name in SIZED and keys.get("size") is not None:
            last = (_pair(keys["size"]), (*at, "size"))
    return last


def _is_multi_scale(document: Document) -> bool:
    train = document.tree.get("DataLoader", {}).get("Train", {})
    return bool(train.get("sampler", {}).get("scales"))


def entries(document: Document, path: tuple) -> Iterator[tuple[tuple, str, dict]]:
    """Yield (path of its keys, name, keys) of each transform in a list."""
    tree = document.tree
    for key in path:
        tree = tree.get(key, {})
    for i, entry in enumerate(tree or ()):
        for name, keys in entry.items():
            yield (*path, i, name), name, keys


def _pair(size: object) -> tuple[int, int]:
    return tuple(size) if isinstance(size, list) else (size, size)


def _size(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
