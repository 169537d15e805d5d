"""What all families have in common: the way from an image through the stages to the classifier."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn

from .layers import ACTIVATIONS, INITS, kaiming_fan_out


def strides_after(strides: Sequence[int | tuple[int, int]]) -> list[int | tuple[int, int]]:
    """Return the stride of each stage's output against the image, behind a first convolution with stride 2.

    A number where height and width have the same.
    """
    after, height, width = [], 2, 2
    for stride in strides:
        down, across = (stride, stride) if isinstance(stride, int) else stride
        height, width = height * down, width * across
        after.append(height if height == width else (height, width))
    return after


class OwnNames(type):
    """Metaclass of networks whose parameters have fixed names (``conv1_weights``).

    Paddle refuses a name that was given before, in the whole process: a second network, or a notebook's cell run
    again, would fail. Two networks for one optimizer need different ``prefix_name`` all the same: an optimizer's
    state goes by names.
    """

    def __call__(cls, *args, **kwargs):
        with paddle.utils.unique_name.guard():
            return super().__call__(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor, as without this metaclass."""
        return inspect.signature(cls.__init__.__get__(object()))


class Network(nn.Layer, metaclass=OwnNames):
    """Images float32 [N, 3, H, W] through a first convolution, stages, perhaps a last convolution, and the head.

    A family's network calls ``super().__init__``, builds its layers in the order of their keys, the head with
    :meth:`build_head`, and ends with :meth:`initialise`.

    Args:
        widths: channels of each stage's output.
        strides: of the stages, each a number or (of height, of width); the first convolution has stride 2.
        pyramid: the stages whose outputs are the feature pyramid; None: the last one at each stride.
        class_num, data_format, dropout, activation, init, features_only, out_indices: as the family documents them.

    Attributes:
        num_features: width of the pooled features.
        feature_channels: channels of the pyramid's maps, by out_indices.
        feature_strides: their strides.
        head_takes_mean: the head needs no more of its features than their means.
    """

    head_takes_mean = True
    # names of the first convolution, of the last one (None: there is none) and of the classifier
    STEM, LAST, CLASSIFIER = "conv", None, "fc"
    # what ``activation`` may be
    ALLOWED = tuple(ACTIVATIONS)

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int | tuple[int, int]],
        *,
        class_num: int,
        data_format: str,
        dropout: float,
        activation: str,
        init: str,
        features_only: bool,
        out_indices: Sequence[int] | None,
        pyramid: Sequence[int] | None = None,
    ):
        super().__init__()
        after = strides_after(strides)
        self._pyramid = tuple(pyramid or (i for i, s in enumerate(after) if after[i + 1 : i + 2] != [s]))
        levels = [after[i] for i in self._pyramid]
        out_indices = range(len(levels)) if out_indices is None else out_indices
        if class_num < 0:
            raise ValueError(f"class_num {class_num!r}; allowed: 0 (pooled features) and above")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout!r}; allowed: 0 <= dropout < 1")
        for name, value, allowed in (
            ("data_format", data_format, ("NCHW", "NHWC")),
            ("activation", activation, self.ALLOWED),
            ("init", init, INITS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} {value!r}; allowed: {', '.join(allowed)}")
        if not out_indices or not all(i in range(len(levels)) for i in out_indices):
            strides_text = ", ".join(map(str, levels))
            raise ValueError(
                f"out_indices {tuple(out_indices)!r}; allowed: some of 0 to {len(levels) - 1} (strides {strides_text})"
            )
        self.data_format, self.activation, self._dropout, self._init = data_format, activation, dropout, init
        self.class_num = 0 if features_only else class_num
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.num_features = widths[-1]
        self.feature_channels = tuple(widths[self._pyramid[i]] for i in self.out_indices)
        self.feature_strides = tuple(levels[i] for i in self.out_indices)
        # how many stages to build
        self._depth = self._pyramid[max(self.out_indices)] + 1 if features_only else len(strides)

    def build_head(self, name: str, initializer=None, dropout_mode: str = "upscale_in_train") -> None:
        """Build pooling, dropout and classifier, as far as this network has them.

        Args:
            name: start of the classifier's parameter names: ``{name}_weights``, ``{name}_offset``.
            initializer: of its weights; None is Paddle's.
            dropout_mode: ``"downscale_in_infer"``: what training keeps stays as it is, evaluation multiplies by the
                share that training keeps.
        """
        if not self.features_only:
            self.avg_pool = nn.AdaptiveAvgPool2D(1, data_format=self.data_format)
            self.dropout = nn.Dropout(self._dropout, mode=dropout_mode)
        if self.class_num:
            classifier = nn.Linear(
                self.num_features,
                self.class_num,
                weight_attr=ParamAttr(name=f"{name}_weights", initializer=initializer),
                bias_attr=ParamAttr(name=f"{name}_offset"),
            )
            self.add_sublayer(self.CLASSIFIER, classifier)

    def initialise(self) -> None:
        """Draw the initial weights that ``init`` asks for, where they are not Paddle's."""
        if self._init == "kaiming_fan_out":
            kaiming_fan_out(self)

    def stages(self) -> list[nn.Layer]:
        """The layers between the first convolution and the last one, or the head, in order."""
        return list(self.blocks)

    def units(self) -> list[nn.Layer]:
        """The layers in front of the head, in order: the first convolution, the blocks, the last convolution.

        A block that may add its input to its output says so in ``shortcut``.
        """
        last = [getattr(self, self.LAST)] if self.LAST and not self.features_only else []
        return [getattr(self, self.STEM), *self.stages(), *last]

    def _maps(self, x) -> list:
        """The maps of the pyramid, in the layout computed in."""
        if self.data_format == "NHWC":
            x = paddle.transpose(x, [0, 2, 3, 1])
        x = getattr(self, self.STEM)(x)
        maps = []
        for i, stage in enumerate(self.stages()):
            x = stage(x)
            if i in self._pyramid:
                maps.append(x)
        return maps

    def forward_features(self, x) -> list:
        """[N, 3, H, W] -> the pyramid's maps [N, C, H / stride, W / stride], sizes rounded up.

        The last map is the last stage's, in front of a last convolution.
        """
        maps = self._maps(x)
        return [paddle.transpose(m, [0, 3, 1, 2]) for m in maps] if self.data_format == "NHWC" else maps

    def forward(self, x):
        """[N, 3, H, W] -> logits [N, class_num]; or pooled features, or the maps of ``out_indices``."""
        if self.features_only:
            maps = self.forward_features(x)
            return [maps[i] for i in self.out_indices]
        x = self._maps(x)[-1]
        return self.head(getattr(self, self.LAST)(x) if self.LAST else x)

    def head(self, x):
        """[N, num_features, h, w] in the layout computed in -> what forward returns: pooling, dropout, classifier."""
        x = self.dropout(paddle.flatten(self.avg_pool(x), 1))
        return getattr(self, self.CLASSIFIER)(x) if self.class_num else x
