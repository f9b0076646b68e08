"""A small YOLOv2 with everything that cfg files have here: passthrough, shortcut, groups, both kinds of pools."""

import torch

from greedyprune.models.darknet.cfg import read_cfg
from greedyprune.models.darknet.network import Darknet
from greedyprune.models.darknet.options import DarknetInfo

TEXT = """[net]
width=64
height=32
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
groups=2
activation=relu

[shortcut]
from=-2
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=12
size=1
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=1

[route]
layers=3

[reorg]
stride=2

[route]
layers=-1,-3

[convolutional]
size=1
stride=1
pad=1
filters=14
activation=linear

[region]
anchors=1,1, 2.5,2
classes=2
num=2
coords=4
softmax=1
bias_match=1
rescore=1
object_scale=5
thresh=.6
"""


def small_cfg():
    return read_cfg(TEXT, "small.cfg")


def small_darknet(info=None, filters=None):
    """Random weights, the same every time, whose norms are not the identity."""
    torch.manual_seed(0)
    model = Darknet(small_cfg(), info or DarknetInfo(("box", "disc"), (3, 8)), filters)
    for name, tensor in model.state_dict().items():
        if name.endswith(("norm.weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("norm.bias", "running_mean")):
            tensor.normal_(std=0.2)
    return model.eval()
