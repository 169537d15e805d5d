"""Our own plain MobileNets in PyTorch: the same layers as ppmobilenet's, to compare speeds with."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ppmobilenet.models import mobilenet_v3, mobilenet_v4

V1_BLOCKS = (  # channels in, channels out, stride of the depthwise convolution
    *((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)),
    *((512, 512, 1),) * 5,
    *((512, 1024, 2), (1024, 1024, 1)),
)
V2_STAGES = (  # expansion, channels out, units, stride of the first unit
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def conv_norm(c_in, c_out, kernel=1, stride=1, groups=1, activation=nn.ReLU6):
    layers = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, activation(inplace=True)) if activation else nn.Sequential(*layers)


class Unit(nn.Module):
    """Inverted residual; expands even with t = 1, as Paddle's does."""

    def __init__(self, c_in, c_out, stride, t):
        super().__init__()
        wide = c_in * t
        self.layers = nn.Sequential(
            conv_norm(c_in, wide), conv_norm(wide, wide, 3, stride, wide), conv_norm(wide, c_out, activation=None)
        )
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)), inplace=True)))


class Residual(nn.Module):
    """Layers one after the other, and their input where shapes allow it."""

    def __init__(self, shortcut, *layers):
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


class MobileNet(nn.Module):
    """A trunk, pooling, what a family has behind the pooling, a classifier."""

    def __init__(self, trunk, width, class_num, behind=None):
        super().__init__()
        self.trunk, self.behind, self.classifier = trunk, behind or nn.Identity(), nn.Linear(width, class_num)

    def forward(self, x):
        return self.classifier(self.behind(F.adaptive_avg_pool2d(self.trunk(x), 1)).flatten(1))


def MobileNetV1(class_num=1000):
    layers = [conv_norm(3, 32, 3, 2, activation=nn.ReLU)]
    for c_in, c_out, stride in V1_BLOCKS:
        layers += [conv_norm(c_in, c_in, 3, stride, c_in, nn.ReLU), conv_norm(c_in, c_out, activation=nn.ReLU)]
    return MobileNet(nn.Sequential(*layers), 1024, class_num)


def MobileNetV2(class_num=1000):
    layers, c_in = [conv_norm(3, 32, 3, 2)], 32
    for t, c_out, n, stride in V2_STAGES:
        for i in range(n):
            layers.append(Unit(c_in, c_out, 1 if i else stride, t))
            c_in = c_out
    return MobileNet(nn.Sequential(*layers, conv_norm(320, 1280)), 1280, class_num)


def MobileNetV3(size="large", class_num=1000):
    layers, c_in = [conv_norm(3, 16, 3, 2, activation=nn.Hardswish)], 16
    for row in mobilenet_v3.SIZES[size]:
        activation, wide = nn.Hardswish if row.swish else nn.ReLU, row.expanded
        unit = [
            conv_norm(c_in, wide, activation=activation),
            conv_norm(wide, wide, row.filter_size, row.stride, wide, activation),
            *([SqueezeExcitation(wide, wide // 4)] if row.gated else []),
            conv_norm(wide, row.out, activation=None),
        ]
        layers.append(Residual(row.stride == 1 and c_in == row.out, *unit))
        c_in = row.out
    layers.append(conv_norm(c_in, wide, activation=nn.Hardswish))
    behind = nn.Sequential(nn.Conv2d(wide, 1280, 1, bias=False), nn.Hardswish(inplace=True), nn.Dropout(0.2))
    return MobileNet(nn.Sequential(*layers), 1280, class_num, behind)


def _v4_unit(c_in, row):
    if isinstance(row, mobilenet_v4.Conv):
        return conv_norm(c_in, row.out, row.filter_size, row.stride, activation=nn.ReLU)
    shortcut = row.stride == 1 and c_in == row.out
    project = conv_norm(row.expanded, row.out, activation=None)
    if isinstance(row, mobilenet_v4.Fused):
        return Residual(
            shortcut, conv_norm(c_in, row.expanded, row.filter_size, row.stride, activation=nn.ReLU), project
        )
    wide = row.expanded
    start = [conv_norm(c_in, c_in, row.start, 1, c_in, None)] if row.start else []
    middle = [conv_norm(wide, wide, row.mid, row.stride, wide, nn.ReLU)] if row.mid else []
    return Residual(shortcut, *start, conv_norm(c_in, wide, activation=nn.ReLU), *middle, project)


def MobileNetV4(size="conv_small", class_num=1000):
    """The ones without attention."""
    c_in = 24 if size == "conv_large" else 32
    layers = [conv_norm(3, c_in, 3, 2, activation=nn.ReLU)]
    for row in mobilenet_v4.SIZES[size]:
        layers.append(_v4_unit(c_in, row))
        c_in = row.out
    return MobileNet(nn.Sequential(*layers), 1280, class_num, conv_norm(c_in, 1280, activation=nn.ReLU))


# by the names of ppmobilenet's networks
PEERS = {
    "MobileNetV1": MobileNetV1,
    "MobileNetV2": MobileNetV2,
    **{f"MobileNetV3_{size}_x1_0": partial(MobileNetV3, size) for size in ("large", "small")},
    **{f"MobileNetV4_{size}": partial(MobileNetV4, size) for size in ("conv_small", "conv_medium", "conv_large")},
}


def training_step(candidate, name, batch, threads, size, class_num=1000):
    """A function that does one full training step in channels_last, on noise."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = PEERS[name](class_num=class_num)
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, class_num, (batch,))

    def step():
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
