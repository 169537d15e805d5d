"""Do transforms fit together? Each says what it takes and gives; this follows a photo through them, without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Form(NamedTuple):
    """What lies between two transforms.

    Attributes:
        kind: ``file`` (a path or bytes), or the type of the pixels: ``uint8``, ``float32``, ``float16``.
        layout: ``HWC`` or ``CHW``; empty for a file.
        channels: of the pixels.
    """

    kind: str
    layout: str = ""
    channels: int = 3

    def __str__(self) -> str:
        if self.kind == "file":
            return "an undecoded photo"
        return f"{self.kind} {f'[{self.channels}, H, W]' if self.layout == 'CHW' else f'[H, W, {self.channels}]'}"


class Takes(NamedTuple):
    """The kinds and the layouts that a transform takes."""

    kinds: tuple[str, ...]
    layouts: tuple[str, ...] = ("HWC",)


FILE = Takes(("file",), ("",))
PHOTO = Takes(("uint8",))  # Pillow's operations
PIXELS = Takes(("uint8", "float32"))  # OpenCV's
NORMALISED = Takes(("float32",))
ANY_TYPE = Takes(("uint8", "float32", "float16"))


class Fault(NamedTuple):
    """The transform that does not fit (``position`` in the chain, its length: the result), why, and what to do."""

    position: int
    message: str
    hint: str


def check_chain(transforms: Sequence) -> Fault | None:
    """Follow a photo through transforms, each with ``takes`` and, where it changes the form, ``gives(form)``.

    A transform without ``takes`` is trusted with everything.

    Returns:
        The first that gets what it does not take, or a result other than float32 pixels of three channels; None if
        all is well. ``HWC`` is a good result: the data set transposes, as PaddleClas's do.
    """
    form, maker = Form("file"), ""
    names = [type(transform).__name__ for transform in transforms]
    for position, (name, transform) in enumerate(zip(names, transforms)):
        takes = getattr(transform, "takes", None)
        if takes is not None and (form.kind not in takes.kinds or form.layout not in takes.layouts):
            wanted = " or ".join(str(Form(k, lay, form.channels)) for k in takes.kinds for lay in takes.layouts)
            told = f"{name} takes {wanted} and gets {form}" + (f" from {maker}" if maker else "")
            return Fault(position, told, _remedy(name, transform, form, maker, names))
        after = transform.gives(form) if hasattr(transform, "gives") else form
        form, maker = after, name if after != form else maker
    if form == Form("float32", "HWC") or form == Form("float32", "CHW"):
        return None
    told = f"the result is {form}, and a network takes float32 of 3 channels"
    if form.kind == "file":
        hint = "let the list begin with `- DecodeImage: {to_rgb: True, channel_first: False}`"
    elif form.kind == "uint8":
        hint = f"put a NormalizeImage behind {names[-1]}, with order: '{'chw' if form.layout == 'CHW' else ''}'"
    else:
        hint = f"leave {'output_fp16' if form.kind == 'float16' else 'channel_num'} of NormalizeImage out"
    return Fault(len(transforms), told, hint)


def _remedy(name: str, transform: object, form: Form, maker: str, names: Sequence[str]) -> str:
    """What to do about a transform that gets what it does not take."""
    takes = transform.takes
    if form.kind == "file":
        where = "move DecodeImage in front of it" if "DecodeImage" in names else "there is no DecodeImage"
        return f"{where}: the list begins with `- DecodeImage: {{to_rgb: True, channel_first: False}}`"
    if maker == name:
        return f"leave one {name} out"
    if name == "DecodeImage":
        return "leave one DecodeImage out"
    if form.kind not in takes.kinds:
        return f"move it {'behind NormalizeImage' if takes == NORMALISED else f'in front of {maker}'}"
    if name == "NormalizeImage":
        return "give it order: 'chw'" if form.layout == "CHW" else "give it order: '', or move it behind ToCHWImage"
    if maker == "DecodeImage":
        return "give DecodeImage channel_first: False"
    return f"move it in front of {maker}"
