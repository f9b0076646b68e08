"""Backbone sites: inner channels of blocks leave losslessly, cost what a built model costs, and are read from files."""

import functools
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from greedyprune import UserError, build_model, load_model
from greedyprune.commands.eval import main as evaluate
from greedyprune.commands.transplant import main as transplant_tool
from greedyprune.evaluation.profile import count_flops, count_parameters
from greedyprune.models import save_checkpoint
from greedyprune.models.backbone import BACKBONES, dense_widths
from greedyprune.pruning.kept import kept_by_magnitude
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import masked, shrink_site, slim_site, transplant
from greedyprune.search.cost import CostModel

SHAPE = {"hidden_dim": 32, "heads": 4, "enc_layers": 1, "dec_layers": 1, "ffn_dim": 40, "num_queries": 7}
BLOCKS = {"small": 6, "resnet18": 8, "resnet50": 16}
IMAGES = [torch.randn(3, 64, 96), torch.randn(3, 48, 70)]  # the second one is padded


@functools.cache
def detector(backbone: str, name: str = "dn_detr"):
    torch.manual_seed(0)
    model = build_model(name, num_classes=3, backbone=backbone, **SHAPE)
    for module in model.backbone.modules():
        if hasattr(module, "running_var"):
            shape = module.running_var.shape
            with torch.no_grad():
                module.weight.copy_(torch.rand(shape) * 0.5 + 0.3)
                module.bias.copy_(torch.randn(shape) * 0.2)
            module.running_mean.copy_(torch.randn(shape) * 0.1)
            module.running_var.copy_(torch.rand(shape) + 0.5)
    return model.eval()


def difference(a, b) -> float:
    """The largest difference of two models' feature maps, as a share of the largest value."""
    with torch.inference_mode():
        left, right = a.features(IMAGES).tokens, b.features(IMAGES).tokens
    assert left.isfinite().all()
    return ((left - right).abs().max() / left.abs().max()).item()


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_of_dense_widths_is_what_is_built(name: str) -> None:
    with torch.device("meta"):
        model = build_model("dn_detr", num_classes=3, backbone=name, **SHAPE)
    built = [
        tuple(block.get_submodule(f"conv{number}").out_channels for number in (1, 2)[: 1 + hasattr(block, "conv3")])
        for block in model.feature_extractor.blocks.values()
    ]
    assert tuple(built) == dense_widths(name) == model.cfgs.dense_backbone


@pytest.mark.parametrize("backbone", BLOCKS)
def test_transformer_sites_are_listed_unless_others_are_asked_for(backbone: str) -> None:
    model = detector(backbone)
    names = {prune: [site.name for site in list_sites(model, prune)] for prune in ("transformer", "backbone", "all")}
    assert [site.name for site in list_sites(model)] == names["transformer"]
    assert names["all"] == names["backbone"] + names["transformer"]
    assert len(names["backbone"]) == BLOCKS[backbone] * (2 if backbone == "resnet50" else 1)
    assert all(site.part == "backbone" and site.groups == 1 for site in list_sites(model, "backbone"))


@pytest.mark.parametrize("backbone", BLOCKS)
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_slim_answers_as_masked_for_any_inner_channels(backbone: str, data: st.DataObject) -> None:
    model = detector(backbone)
    kept = {}
    for site in data.draw(st.lists(st.sampled_from(list_sites(model, "all")), min_size=1, unique_by=lambda s: s.name)):
        each = data.draw(st.integers(1, site.group_width))
        order = torch.randperm(site.group_width, generator=torch.Generator().manual_seed(each))[:each].tolist()
        kept[site.name] = [g * site.group_width + channel for g in range(site.groups) for channel in sorted(order)]
    slim, off = transplant(model, kept), masked(model, kept)
    assert difference(slim, off) < 1e-5
    with torch.inference_mode():
        assert torch.allclose(slim(IMAGES)["pred_logits"], off(IMAGES)["pred_logits"], atol=1e-4)


@pytest.mark.parametrize("backbone", BLOCKS)
def test_every_inner_width_alone_is_lossless_and_its_pruning_is_felt(backbone: str) -> None:
    model = detector(backbone)
    for site in list_sites(model, "backbone")[:: 5 if backbone == "resnet50" else 2]:
        kept = {site.name: (1, 2, 5)}
        slim = transplant(model, kept)
        assert difference(slim, masked(model, kept)) < 1e-5
        assert difference(slim, model) > 1e-4


@pytest.mark.parametrize("backbone", BLOCKS)
def test_inner_widths_change_in_place_with_their_statistics_and_come_back(backbone: str) -> None:
    model = detector(backbone)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sites = list_sites(model, "backbone")[:2]
    kept = {site.name: tuple(range(1, site.width, 3)) for site in sites}
    slim = transplant(model, kept)
    with slim_site(model, sites[0], kept[sites[0].name]), slim_site(model, sites[1], kept[sites[1].name]):
        assert difference(model, slim) < 1e-6
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    again = transplant(model, {})
    for site in sites:
        shrink_site(again, site, kept[site.name])
    assert difference(again, slim) < 1e-6


def test_a_slim_small_backbone_trains() -> None:
    slim = transplant(detector("small"), {"backbone.1.conv1": (0, 4, 7)}).train()
    norm = slim.feature_extractor.blocks["body.layer1.1"].bn1
    assert isinstance(norm, nn.BatchNorm2d)
    before = norm.running_mean.clone()
    slim(IMAGES)["pred_logits"].sum().backward()
    assert norm.weight.grad is not None
    assert norm.num_features == len(norm.running_mean) == 3
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize(("backbone", "name"), [("resnet50", "dn_detr"), ("small", "deformable_detr")])
def test_a_slim_backbone_is_built_saved_and_loaded_by_its_widths(backbone: str, name: str, tmp_path: Path) -> None:
    model = detector(backbone, name)
    slim = transplant(model, {site.name: range(3, site.width, 5) for site in list_sites(model, "backbone")[::2]})
    assert len(slim.cfgs.to_list()) == 3
    save_checkpoint(slim, tmp_path / "slim.safetensors")
    loaded = load_model(tmp_path / "slim.safetensors", str(slim.cfgs))
    assert loaded.cfgs == slim.cfgs
    assert difference(loaded, slim) == 0
    torch.save({"model": slim.state_dict()}, tmp_path / "plain.pth")
    plain = load_model(tmp_path / "plain.pth", heads=4, ffn_dim=40)
    assert plain.cfgs == slim.cfgs
    assert difference(plain, slim) == 0
    with pytest.raises(UserError, match=r"backbone block 0: conv1 is \d+ in cfgs and \d+ in the checkpoint"):
        load_model(tmp_path / "slim.safetensors", str(model.cfgs))


def test_a_dense_backbone_is_stored_and_printed_as_published(tmp_path: Path) -> None:
    model = detector("small")
    assert len(model.cfgs.to_list()) == 2
    save_checkpoint(model, tmp_path / "dense.safetensors")
    whole = [*model.cfgs.to_list(), [[48], [48], [96], [96], [144], [144]]]
    assert load_model(tmp_path / "dense.safetensors", whole).cfgs == model.cfgs
    assert transplant(model, {"backbone.0.conv1": range(48)}).cfgs == model.cfgs


@pytest.mark.parametrize("backbone", BLOCKS)
def test_cost_of_any_widths_is_that_of_the_built_model(backbone: str) -> None:
    with torch.device("meta"):
        model = build_model("dn_detr", num_classes=3, backbone=backbone, **SHAPE)
    cost = CostModel(model, (96, 128), "all")
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        widths = {}
        for site in list_sites(model, "all"):
            each = int(torch.randint(1, site.group_width + 1, (), generator=generator))
            widths[site.name] = each * site.groups
        with torch.device("meta"):
            slim = build_model("dn_detr", model.cfgs.replace(widths), num_classes=3, backbone=backbone, **SHAPE).eval()
        assert cost(widths) == (count_parameters(slim)[0], count_flops(slim, (96, 128))[0])
    assert cost(cost.full) == (count_parameters(model)[0], count_flops(model.eval(), (96, 128))[0])
    assert 0 < cost.site_flops(widths) < cost.site_flops(cost.full) < cost.flops


def test_magnitude_looks_at_weights_not_at_statistics() -> None:
    model = transplant(detector("resnet50"), {})
    block = model.feature_extractor.blocks["body.layer2.1"]
    with torch.no_grad():
        for tensor in (block.conv2.weight, block.bn2.weight, block.bn2.bias):
            tensor[9:] *= 1e-3
    block.bn2.running_mean[9:], block.bn2.running_var[9:] = 50.0, 200.0
    cfgs = model.cfgs.replace({"backbone.4.conv2": 9})
    kept = kept_by_magnitude(model, cfgs)
    assert kept["backbone.4.conv2"] == tuple(range(9))
    assert transplant(model, kept).cfgs == cfgs
    assert not any(name.startswith("backbone") for name in kept_by_magnitude(model, model.cfgs))


def test_the_tools_make_and_evaluate_a_checkpoint_with_a_slim_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(detector("small"), tmp_path / "dense.safetensors")
    cfgs = "[[[16, 24]], [[8, 32, 8]], [[12], [48], [40], [96], [7], [144]]]"
    files = ["--resume", str(tmp_path / "dense.safetensors"), "--output", str(tmp_path / "slim.safetensors")]
    assert transplant_tool([*files, "--cfgs", *cfgs.split()]) == 0
    assert capsys.readouterr().out.strip() == cfgs
    assert str(load_model(tmp_path / "slim.safetensors", cfgs).cfgs) == cfgs
    wrong = cfgs.replace("[40]", "[41]")
    with pytest.raises(UserError, match="backbone block 2: conv1 is 41 in --cfgs and 40 in the checkpoint"):
        evaluate(["--resume", str(tmp_path / "slim.safetensors"), "--cfgs", wrong])
    for bad, words in (("[97]", "conv1 width 97 is wider than the dense model's 96"), ("[40, 3]", "has 2 numbers")):
        with pytest.raises(UserError, match=words):
            transplant_tool([*files, "--cfgs", cfgs.replace("[40]", bad)])
