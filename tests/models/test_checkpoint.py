import json
import os
import resource
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from greedyprune import UserError, build_model, load_checkpoint, load_model
from greedyprune.models import ModelInfo, read_checkpoint, save_checkpoint
from greedyprune.models.importing.infer import infer_shape
from greedyprune.models.importing.published import convert_keys, search_masks

from .small_model import ARGUMENTS, IMAGES, SHAPE, SLIM, answer, published, refused


@pytest.mark.parametrize("flat", [False, True], ids=["with self_attn", "without self_attn"])
@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "data parallel"])
@pytest.mark.parametrize("cfgs", [None, SLIM], ids=["dense", "slim"])
def test_published_files_load_with_their_shape(tmp_path, flat, prefix, cfgs):
    torch.manual_seed(1)
    model = build_model("dn_detr", cfgs, temperature_h=10.0, temperature_w=30.0, **SHAPE).eval()
    state = {prefix + key: value for key, value in published(model, flat).items()}
    content = {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "epoch": 4}
    torch.save({**content, "args": ARGUMENTS}, tmp_path / "published.pth")
    loaded = load_model(tmp_path / "published.pth")
    assert loaded.options == model.options
    assert loaded.widths == model.widths
    assert not loaded.training
    assert torch.equal(answer(loaded), answer(model))


def test_a_plain_state_dict_loads_when_the_caller_says_what_tensors_cannot(dense, tmp_path):
    torch.save(published(dense), tmp_path / "state.pth")
    loaded = load_model(tmp_path / "state.pth", heads=4, ffn_dim=48, temperature_h=10.0, temperature_w=30.0)
    assert torch.equal(answer(loaded), answer(dense))


def test_arguments_may_be_a_dict_and_the_file_of_the_old_format(dense, tmp_path):
    content = {"state_dict": published(dense), "args": vars(ARGUMENTS)}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(answer(load_model(tmp_path / "old.pth")), answer(dense))


def test_search_time_files_load_dense_and_give_their_masks(dense, tmp_path):
    torch.manual_seed(2)
    state = published(dense, flat=True)
    widths = {"encoder": {1: 32, 2: 48}, "decoder": {1: 32, 2: 32, 3: 48}}
    sites = {"encoder": ["attn", "ffn"], "decoder": ["self", "cross", "ffn"]}
    wanted = {}
    for part, selects in widths.items():
        for layer in range(2):
            for select, width in selects.items():
                prefix = f"transformer.{part}.layers.{layer}.select{select}.prune_"
                mask = torch.randn(1, 1, width).half()
                state |= {f"{prefix}a": mask, f"{prefix}w": torch.zeros(width), f"{prefix}gamma": torch.ones(1)}
                state[f"{prefix}lsearch"] = torch.zeros(3)
                wanted[f"{part}.{layer}.{sites[part][select - 1]}"] = mask.flatten() > 0
    path = tmp_path / "search.pth"
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "args": ARGUMENTS}, path)
    loaded = load_model(path)
    assert loaded.widths == dense.widths
    assert torch.equal(answer(loaded), answer(dense))
    masks = search_masks(read_checkpoint(path)[0])
    assert masks.keys() == wanted.keys()
    for site, kept in wanted.items():
        assert torch.equal(masks[site] > 0, kept)
    assert search_masks(published(dense)) == {}


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_backbone_is_told_from_its_tensors(backbone):
    with torch.device("meta"):
        state = build_model("dn_detr", **SHAPE | {"backbone": backbone}).state_dict()
    options, _ = infer_shape(convert_keys(state), {}, {"heads": 4, "ffn_dim": 48})
    assert options.to_dict() == build_model("dn_detr", **SHAPE).options.to_dict() | {"backbone": backbone}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_load_as_float32(dense, tmp_path, dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in published(dense).items()}
    torch.save({"model": state, "args": ARGUMENTS}, tmp_path / "half.pth")
    loaded = load_model(tmp_path / "half.pth")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.class_embed.weight, dense.class_embed.weight.to(dtype).float())


@pytest.mark.parametrize(("cfgs", "backbone"), [(None, "small"), (SLIM, "small"), (SLIM, "resnet18")])
def test_a_checkpoint_of_ours_knows_everything(tmp_path, cfgs, backbone):
    torch.manual_seed(3)
    options = SHAPE | {"backbone": backbone, "num_patterns": 2, "activation": "gelu", "temperature_w": 7.0}
    info = ModelInfo(("a", "b", "c", "d", "e", "f"), (1, 2, 5, 7, 8, 90), 160, 200)
    model = build_model("dn_detr", cfgs, info=info, **options, freeze_norm=True)
    model(IMAGES)  # moves the small backbone's statistics, if it trains them
    save_checkpoint(model.eval(), tmp_path / "model.safetensors", {"note": "kept"})
    loaded = load_model(tmp_path / "model.safetensors")
    assert (loaded.options, loaded.widths, loaded.info) == (model.options, model.widths, info)
    assert torch.equal(answer(loaded), answer(model))
    moved = (tmp_path / "model.safetensors").rename(tmp_path / "no suffix")
    assert torch.equal(answer(load_model(moved)), answer(model))


def test_a_checkpoint_of_ours_loads_into_a_model_of_its_shape_alone(dense, ours):
    other = build_model("dn_detr", **SHAPE)
    assert load_checkpoint(other, ours) is other
    assert torch.equal(other.class_embed.weight, dense.class_embed.weight)
    assert load_checkpoint(other, dense.state_dict()) is other
    slim = build_model("dn_detr", SLIM, **SHAPE)
    with pytest.raises(UserError, match=r"linear1.weight has shape \[\d+, 32\], here it is \[\d+, 32\]"):
        load_checkpoint(slim, ours)
    more = build_model("dn_detr", **SHAPE | {"num_classes": 9})
    with pytest.raises(UserError, match=r"\[6, 32\], here it is \[9, 32\]; the numbers of classes differ"):
        load_checkpoint(more, ours)
    deeper = build_model("dn_detr", **SHAPE | {"enc_layers": 3})
    with pytest.raises(UserError, match=r"has no transformer\.encoder\.layers\.2\."):
        load_checkpoint(deeper, ours)
    shallower = build_model("dn_detr", **SHAPE | {"enc_layers": 1})
    with pytest.raises(UserError, match=r"has transformer\.encoder\.layers\.1\..*, which this model lacks"):
        load_checkpoint(shallower, ours)


def test_a_refused_checkpoint_leaves_the_model_as_it_was(ours):
    model = build_model("dn_detr", SLIM, **SHAPE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError):
        load_checkpoint(model, ours)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_widths_that_the_caller_expects_are_compared_by_layer(dense, ours):
    text = dense.options.layout.to_text(dense.widths)
    assert load_model(ours, text).widths == dense.widths
    other = dense.widths | {"decoder.1.cross": 16}
    refused(ours, "decoder layer 1: cross is 16 in cfgs and 32 in the checkpoint", cfgs=other)
    refused(ours, "encoder layer 1 is 0 in cfgs and 1 in the checkpoint", cfgs={"encoder.1": 0})
    refused(ours, "1 encoder layers, the model has 2", text, cfgs=[[[32, 48]], json.loads(text)[1]])


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["ours.safetensors", "zip.pth", "old.pth"])
def test_truncated_files_are_refused(dense, ours, tmp_path, kind, share):
    path = tmp_path / kind
    if kind == "ours.safetensors":
        data = ours.read_bytes()
    else:
        torch.save({"model": published(dense), "args": ARGUMENTS}, path, _use_new_zipfile_serialization="zip" in kind)
        data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "truncated")


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors", "noise"])
def test_files_of_something_else_are_refused(tmp_path, name):
    for seed in range(20):
        (tmp_path / name).write_bytes(np.random.RandomState(seed).bytes(200))
        refused(tmp_path / name)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(tmp_path / name)


def test_a_path_that_is_no_file_is_named(tmp_path):
    refused(tmp_path / "missing.pth", "does not exist")
    refused(tmp_path, "is not a file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({"model": {}, "epoch": 3}, "holds no tensors"),
        ({"model": {"class_embed.0.weight": torch.zeros(2, 2)}}, "it has no class_embed.weight"),
        ({"class_embed.weight": torch.zeros(2)}, "class_embed.weight has shape [2]"),
    ],
)
def test_files_without_a_dn_detr_are_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", words)


def test_a_deformable_detr_says_what_it_is(tmp_path):
    state = {"class_embed.0.weight": torch.zeros(91, 256)}
    arguments = Namespace(modelname="dn_dab_deformable_detr")
    torch.save({"model": state, "args": arguments}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "not a DN-DETR's", "dn_dab_deformable_detr")


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "bert.safetensors")
    refused(tmp_path / "bert.safetensors", "not a DN-DETR's")


@pytest.mark.parametrize(
    "missing", ["decoder.layers.1.ca_v_proj.weight", "encoder.layers.0.norm1.bias", "query_scale.layers.0"]
)
def test_a_published_file_with_tensors_missing_is_refused_by_their_name(dense, tmp_path, missing):
    state = {key: value for key, value in published(dense).items() if missing not in key}
    torch.save({"model": state, "args": ARGUMENTS}, tmp_path / "part.pth")
    refused(tmp_path / "part.pth", missing)


def test_training_arguments_that_are_nonsense_are_refused(dense, tmp_path):
    torch.save({"model": published(dense), "args": Namespace(nheads="many")}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "nheads = 'many'")
    torch.save({"model": published(dense), "args": Namespace(nheads=3)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="not a multiple of both the 3 heads"):
        load_model(tmp_path / "a.pth")


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_beside_it(dense, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(dense, path)
    before = path.read_bytes()
    assert len(before) > 1_000_000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(build_model("dn_detr", **SHAPE), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_saving_replaces_the_old_file_whole(dense, tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    save_checkpoint(build_model("dn_detr", **SHAPE), path)
    save_checkpoint(dense, path)
    assert torch.equal(answer(load_model(path)), answer(dense))
    assert os.listdir(path.parent) == [path.name]


def test_widths_that_do_not_fit_are_said_to_be_whose_they_are(dense, tmp_path):
    with pytest.raises(UserError, match=r"^cfgs is not a list"):
        build_model("dn_detr", "[[", **SHAPE)
    with pytest.raises(UserError, match=r"^cfgs: encoder layer 0: attn width 18 is not a multiple of the 4 heads"):
        build_model("dn_detr", [[[18, 24], [8, 40]], [[8, 16, 24], [24, 8, 8]]], **SHAPE)
    with pytest.raises(UserError, match=r"^--cfgs: encoder layer 0: attn width 18"):
        build_model("dn_detr", "[[[18, 24], [8, 40]], [[8, 16, 24], [24, 8, 8]]]", cfgs_name="--cfgs", **SHAPE)
    torch.save(published(dense), tmp_path / "state.pth")
    refused(tmp_path / "state.pth", ": its tensors: encoder layer 0: ffn width 48 is wider", heads=4, ffn_dim=8)
