"""Detectors whose attention has fewer heads, each of full width: what they compute, and their checkpoints."""

import pytest
import torch
from safetensors.torch import save_file

from greedyprune import UserError, build_model, load_model
from greedyprune.models import MODELS, save_checkpoint
from greedyprune.models.layers import Heads, PackedSelfAttention

from .small_model import SHAPE, answer, refused

SLIM = [[[16, 24], [8, 40]], [[8, 16, 24], [24, 8, 8]]]  # heads of 8 channels: 2, 1; 1 and 2, 3 and 1


def detector(name, cfgs=SLIM, **options):
    torch.manual_seed(0)
    model = build_model(name, cfgs, **{**SHAPE, "whole_heads": True, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_fewer_heads_of_full_width_attend_as_as_many_heads_of_pytorch():
    torch.manual_seed(0)
    ours, theirs = PackedSelfAttention(32, 16, Heads(dim=8)), torch.nn.MultiheadAttention(32, 4, batch_first=True)
    rows = torch.cat([torch.arange(8, 24) + 32 * part for part in range(3)])  # heads 1 and 2 of q, k and v
    with torch.no_grad():
        ours.in_proj_weight.copy_(theirs.in_proj_weight[rows])
        ours.in_proj_bias.copy_(theirs.in_proj_bias.normal_()[rows])
        ours.out_proj.weight.copy_(theirs.out_proj.weight[:, 8:24])
        ours.out_proj.bias.copy_(theirs.out_proj.bias)
        theirs.out_proj.weight[:, :8] = 0
        theirs.out_proj.weight[:, 24:] = 0
    x, pos = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    torch.testing.assert_close(ours(x, pos, None), theirs(x + pos, x + pos, x)[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_of_ours_knows_that_heads_are_whole(name, tmp_path):
    model = detector(name)
    save_checkpoint(model, tmp_path / "slim.safetensors")
    loaded = load_model(tmp_path / "slim.safetensors", SLIM)
    assert loaded.options.whole_heads
    assert (loaded.options, loaded.widths) == (model.options, model.widths)
    assert torch.equal(answer(loaded), answer(model))


@pytest.mark.parametrize("name", MODELS)
def test_a_plain_state_dict_of_whole_heads_loads_when_the_caller_says_so(name, tmp_path):
    own = {} if name == "dn_detr" else {"enc_n_points": 2}
    model = detector(name, activation="relu", **own)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "plain.safetensors")
    loaded = load_model(tmp_path / "plain.safetensors", SLIM, whole_heads=True, heads=4, ffn_dim=48)
    assert loaded.options == model.options
    assert torch.equal(answer(loaded), answer(model))


@pytest.mark.parametrize("stored", [False, True])
def test_a_slim_checkpoint_of_ours_is_not_taken_for_one_of_the_other_kind(stored, tmp_path):
    save_checkpoint(detector("dn_detr", whole_heads=stored), tmp_path / "slim.safetensors")
    words = f"it is slim, and was {'' if stored else 'not '}pruned by whole heads"
    refused(tmp_path / "slim.safetensors", words, whole_heads=not stored)


@pytest.mark.parametrize("stored", [False, True])
def test_a_dense_checkpoint_may_be_pruned_either_way(stored, tmp_path):
    model = detector("dn_deformable_detr", None, whole_heads=stored)
    save_checkpoint(model, tmp_path / "dense.safetensors")
    loaded = load_model(tmp_path / "dense.safetensors", whole_heads=not stored)
    assert loaded.options.whole_heads is not stored
    assert torch.equal(answer(loaded), answer(model))


def test_widths_and_heads_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="encoder layer 1: attn width 12 is not a multiple of the 8 channels of a head"):
        detector("deformable_detr", [[[16, 24], [12, 40]], SLIM[1]])
    with pytest.raises(UserError, match="whole_heads needs heads of several channels"):
        detector("dn_detr", None, heads=32)
