"""A small detector's shape, and its weights as published files hold them."""

import collections
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from greedyprune import UserError, load_model

SLIM = [[[16, 24], [8, 40]], [[8, 16, 24], [24, 8, 8]]]
SHAPE = {
    "num_classes": 6,
    "backbone": "small",
    "hidden_dim": 32,
    "heads": 4,
    "enc_layers": 2,
    "dec_layers": 2,
    "ffn_dim": 48,
    "num_queries": 7,
}
ARGUMENTS = Namespace(
    modelname="dn_dab_detr",
    nheads=np.int64(4),
    dim_feedforward=48,
    pe_temperatureH=np.float64(10),
    pe_temperatureW=30,
    dilation=np.bool_(False),
    output_dir=Path("logs/run 1"),
    lr_drop_list=[33, 67],
    best=collections.Counter({"epoch": 3}),
    nested=Namespace(device=torch.device("cpu"), classes={"a", "b"}, schedule=range(3), name=np.str_("coco")),
    random_state=np.random.RandomState(0).get_state(),
)
IMAGES = [torch.randn(3, 64, 80, generator=torch.Generator().manual_seed(0))]


def answer(model):
    with torch.no_grad():
        return model(IMAGES).logits


def published(model, flat=False):
    """A state dict as the published code writes it: with the box head twice and, when flat, without `self_attn.`."""
    state = collections.OrderedDict(model.state_dict())
    state |= {f"transformer.decoder.{key}": state[key] for key in list(state) if key.startswith("bbox_embed.")}
    if flat:
        state = {re.sub(r"(encoder\.layers\.\d+\.)self_attn\.", r"\1", key): value for key, value in state.items()}
    return state


def refused(path, *words, **options):
    """The one line with which loading a file is refused."""
    with pytest.raises(UserError) as error:
        load_model(path, **options)
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line
    for word in words:
        assert word in line
    return line
