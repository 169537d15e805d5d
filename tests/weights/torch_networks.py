"""Networks of other projects, written for the tests: only their key names, widths and order of layers matter.

They take PyTorch; each returns a network in eval mode with weights and statistics that vary.
"""

from __future__ import annotations

import torch
from torch import nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
V1_BLOCKS = (
    ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
    + ((512, 512, 1),) * 5
    + ((512, 1024, 2), (1024, 1024, 1))
)


def make_divisible(value: float, divisor: int = 8) -> int:
    new = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * value else new


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU6(),
    ]


class Shortcut(nn.Module):
    """A residual unit whose layers lie under ``conv``."""

    def __init__(self, layers: list[nn.Module], shortcut: bool):
        super().__init__()
        self.conv, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """The two layouts with ``features.N.conv``: torchvision's groups of three, and the tutorials' flat ones.

    Args:
        width: the width multiplier; every width is rounded to 8.
        grouped: torchvision's ``conv.0.0``; else the tutorials' ``conv.0``.
        scale_last: the last convolution shrinks below 1280 as well.
        classes: of the classifier.
    """

    def __init__(self, width: float = 1.0, grouped: bool = True, scale_last: bool = False, classes: int = 1000):
        super().__init__()
        c_in = make_divisible(32 * width)
        last = make_divisible(1280 * (width if scale_last else max(1.0, width)))
        features = [nn.Sequential(*conv_bn(3, c_in, 3, 2))]
        for t, c, n, s in STAGES:
            c_out = make_divisible(c * width)
            for i in range(n):
                stride, hidden = (s if i == 0 else 1), round(c_in * t)
                groups = [conv_bn(c_in, hidden, 1)] if t != 1 else []
                groups.append(conv_bn(hidden, hidden, 3, stride, hidden))
                layers = [nn.Sequential(*g) for g in groups] if grouped else [layer for g in groups for layer in g]
                layers += conv_bn(hidden, c_out, 1)[:2]
                features.append(Shortcut(layers, stride == 1 and c_in == c_out))
                c_in = c_out
        features.append(nn.Sequential(*conv_bn(c_in, last, 1)))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class TimmBlock(nn.Module):
    """timm's ``conv_pw``, ``conv_dw``, ``conv_pwl``; without ``conv_pwl``, its depthwise separable block."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int, act_last: bool = False):
        super().__init__()
        hidden = c_in * expansion
        self.shortcut = stride == 1 and c_in == c_out and not act_last
        self.order = []
        if expansion > 1:
            self.add("conv_pw", "bn1", conv_bn(c_in, hidden, 1), True)
            self.add("conv_dw", "bn2", conv_bn(hidden, hidden, 3, stride, hidden), True)
            self.add("conv_pwl", "bn3", conv_bn(hidden, c_out, 1), False)
        else:
            self.add("conv_dw", "bn1", conv_bn(hidden, hidden, 3, stride, hidden), True)
            self.add("conv_pw", "bn2", conv_bn(hidden, c_out, 1), act_last)

    def add(self, conv: str, norm: str, layers: list[nn.Module], act: bool) -> None:
        self.add_module(conv, layers[0])
        self.add_module(norm, layers[1])
        self.order.append((conv, norm, act))

    def forward(self, x):
        y = x
        for conv, norm, act in self.order:
            y = getattr(self, norm)(getattr(self, conv)(y))
            y = y.clamp(0, 6) if act else y
        return x + y if self.shortcut else y


class TimmV2(nn.Module):
    """timm's mobilenetv2_NNN, and 110d and 120d with ``depth`` and fixed stem and head."""

    def __init__(self, width: float = 1.0, depth: float = 1.0, fixed: bool = False):
        super().__init__()
        c_in = 32 if fixed else make_divisible(32 * width)
        last = 1280 if fixed else max(1280, make_divisible(1280 * width))
        self.conv_stem, self.bn1, _ = conv_bn(3, c_in, 3, 2)
        stages = []
        for index, (t, c, n, s) in enumerate(STAGES):
            units = n if fixed and index in (0, len(STAGES) - 1) else -int(-n * depth // 1)
            c_out, stage = make_divisible(c * width), []
            for i in range(units):
                stage.append(TimmBlock(c_in, c_out, s if i == 0 else 1, t))
                c_in = c_out
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2, _ = conv_bn(c_in, last, 1)
        self.classifier = nn.Linear(last, 1000)

    def forward(self, x):
        x = self.blocks(self.bn1(self.conv_stem(x)).clamp(0, 6))
        return self.classifier(self.bn2(self.conv_head(x)).clamp(0, 6).mean([2, 3]))


class TimmV1(nn.Module):
    """timm's mobilenetv1_NNN (ReLU6)."""

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.conv_stem, self.bn1, _ = conv_bn(3, make_divisible(32 * width), 3, 2)
        stages: list[list[nn.Module]] = []
        for c_in, c_out, stride in V1_BLOCKS:
            if stride == 2 or not stages:
                stages.append([])
            stages[-1].append(TimmBlock(make_divisible(c_in * width), make_divisible(c_out * width), stride, 1, True))
        self.blocks = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
        self.classifier = nn.Linear(make_divisible(1024 * width), 1000)

    def forward(self, x):
        return self.classifier(self.blocks(self.bn1(self.conv_stem(x)).clamp(0, 6)).mean([2, 3]))


class SequenceV1(nn.Module):
    """MobileNetV1 as ``model.N.M`` and ``fc``; ``stages`` splits it into RetinaFace's ``stageN.M``."""

    def __init__(self, width: float = 0.25, stages: bool = False):
        super().__init__()
        blocks = [nn.Sequential(*self.relu(conv_bn(3, int(32 * width), 3, 2)))]
        for c_in, c_out, stride in V1_BLOCKS:
            c_in, c_out = int(c_in * width), int(c_out * width)
            blocks.append(nn.Sequential(*self.relu(conv_bn(c_in, c_in, 3, stride, c_in) + conv_bn(c_in, c_out, 1))))
        self.names = ("stage1", "stage2", "stage3") if stages else ("model",)
        for name, part in zip(self.names, (blocks[:6], blocks[6:12], blocks[12:]) if stages else (blocks,)):
            self.add_module(name, nn.Sequential(*part))
        self.fc = nn.Linear(c_out, 1000)

    @staticmethod
    def relu(layers: list[nn.Module]) -> list[nn.Module]:
        return [nn.ReLU() if isinstance(layer, nn.ReLU6) else layer for layer in layers]

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(x.mean([2, 3]))


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network weights and statistics that vary, and outputs of a size that shows differences."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(0, 0.2, generator=generator)
                layer.running_mean.normal_(0, 0.1, generator=generator)
                layer.running_var.uniform_(0.5, 1.5, generator=generator)
            elif isinstance(layer, nn.Conv2d):
                fan_in = layer.weight[0].numel()
                layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            elif isinstance(layer, nn.Linear):
                layer.weight.normal_(0, 0.1, generator=generator)
                layer.bias.normal_(0, 0.1, generator=generator)
    return network.eval()


def folded(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's state with every batch norm folded into the convolution in front of it, names unchanged."""
    state = dict(network.state_dict())
    before = None
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            before = name
        elif isinstance(layer, nn.BatchNorm2d):
            factor = layer.weight.detach() / (layer.running_var + layer.eps).sqrt()
            state[f"{before}.weight"] = state[f"{before}.weight"] * factor[:, None, None, None]
            state[f"{before}.bias"] = layer.bias.detach() - layer.running_mean * factor
            for end in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                del state[f"{name}.{end}"]
    return state
