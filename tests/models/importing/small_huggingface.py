"""Small models of HuggingFace `transformers` in which everything has a say; saved, changed and imported."""

import json
import re

import pytest
import torch

from greedyprune import UserError, load_model
from greedyprune.commands.import_hf import main

transformers = pytest.importorskip("transformers")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CLASS_NAMES = ("N/A", "cat", "dog", "owl", "N/A", "bee")
SHAPE = {
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 9,
    "id2label": dict(enumerate(CLASS_NAMES)),
}


def resnet(stages):
    """The settings of a ResNet-18 that hands on these stages."""
    return transformers.ResNetConfig(
        layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], out_features=stages
    )


def randomised(model, untouched):
    """The model with random weights; those with a name in `untouched` keep the ones that it starts with."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "normalization" in name or "norm." in name:
                # Statistics and scales that are not the neutral ones.
                spread = torch.rand_like(tensor)
                tensor.copy_(spread + 0.5 if name.endswith(("weight", "running_var")) else spread - 0.5)
            elif not any(part in name for part in untouched):
                tensor.add_(torch.randn_like(tensor) * 0.1)  # heads and offsets start as zeros
    return model


def imported(folder, output):
    assert main([str(folder), "--output", str(output)]) == 0
    return load_model(output)


def saved_and_imported(model, folder):
    model.save_pretrained(folder)
    return model, imported(folder, folder / "ours.safetensors")


def variant(folder, here, **changes):
    """The same weights with another config."""
    here.mkdir()
    (here / "model.safetensors").symlink_to(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | changes
    (here / "config.json").write_text(json.dumps(config))
    return here


def refuse_import(folder, output, message):
    """Importing is refused with this message, and nothing is written."""
    with pytest.raises(UserError, match=re.escape(message)):
        main([str(folder), "--output", str(output)])
    assert not output.exists()


def padded_images(sizes):
    """Random images of these sizes in 96 x 128 pixels, and where they are as HuggingFace's models take it."""
    torch.manual_seed(1)
    pixels = torch.zeros(len(sizes), 3, 96, 128)
    shown = torch.zeros(len(sizes), 96, 128, dtype=torch.long)
    for i, (height, width) in enumerate(sizes):
        pixels[i, :, :height, :width] = torch.randn(3, height, width)
        shown[i, :height, :width] = 1
    return pixels, shown
