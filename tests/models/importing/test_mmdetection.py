"""Files of MMDetection load by themselves: names, settings, classes, and what MMEngine keeps beside the weights."""

import sys

import pytest
import torch

from greedyprune import UserError, load_checkpoint, load_model
from greedyprune.coco_classes import COCO_IDS
from greedyprune.models import read_checkpoint

from ..small_model import refused
from .small_mmdetection import KINDS, randomised, save_training, theirs

IMAGES = [torch.randn(3, height, 96, generator=torch.Generator().manual_seed(height)) for height in (64, 80)]
CLASSES = ("car", "van", "tram", "owl", "bee")
DEFORMABLE = """
num_levels = 4
model = dict(
    type='DeformableDETR', num_queries=7, with_box_refine={refine}, as_two_stage={two_stage},
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=18, style='pytorch', norm_cfg=dict(type='BN', requires_grad=False)),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_heads=4), ffn_cfg=dict(ffn_drop=0.1))),
    decoder=dict(layer_cfg=dict(
        self_attn_cfg=dict(num_heads=4), cross_attn_cfg=dict(num_heads=4), ffn_cfg=dict(ffn_drop=0.1))),
    positional_encoding=dict(num_feats=16, normalize=True, offset=-0.5))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile', backend_args=None), dict(type='Resize', scale=(640, 384), keep_ratio=True)]))
"""
DAB = """
model = dict(
    type='DABDETR', num_queries=7, backbone=dict(type='ResNet'),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_heads=4), ffn_cfg=dict(act_cfg=dict(type='{activation}')))),
    positional_encoding=dict(num_feats=16, normalize=True, temperature=15))
"""


def answer(model):
    with torch.no_grad():
        found = model(IMAGES)
    return found.logits, found.boxes


def config_of(model):
    options = model.options
    if hasattr(options, "num_patterns"):
        return DAB.format(activation={"prelu": "PReLU", "relu": "ReLU"}[options.activation])
    return DEFORMABLE.format(refine=options.with_box_refine, two_stage=options.two_stage)


@pytest.fixture(scope="module")
def plain():
    """The plain Deformable DETR, and its weights under MMDetection's names."""
    model = randomised("plain")
    return model, theirs(model, "deformable_detr")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers_as_before_its_tensors_were_renamed(kind, tmp_path):
    model = randomised(kind)
    if kind.startswith("DAB"):
        model.options = type(model.options)(**{**model.options.to_dict(), "temperature_h": 15.0, "temperature_w": 15.0})
        model = load_checkpoint(type(model)(model.options), model.state_dict()).eval()
    state = theirs(model, KINDS[kind][0])
    loaded = load_model(save_training(tmp_path / "epoch_50.pth", state, config_of(model), CLASSES), ffn_dim=48)
    assert type(loaded) is type(model)
    assert loaded.info.class_names == CLASSES
    assert {**loaded.options.to_dict(), "dropout": 0.0} == model.options.to_dict()
    for found, wanted in zip(answer(loaded), answer(model), strict=True):
        assert torch.equal(found, wanted)


def test_nothing_of_mmengine_is_imported_or_run(plain, tmp_path):
    path = save_training(tmp_path / "epoch_50.pth", plain[1], "import os\nos.abort()")
    assert b"getattr" in path.read_bytes()
    assert load_model(path, heads=4).options.num_queries == 7
    assert "mmengine" not in sys.modules


def test_files_of_the_old_format_load(plain, tmp_path):
    content = {"meta": {"CLASSES": CLASSES}, "state_dict": plain[1]}
    torch.save(content, tmp_path / "published.pth", _use_new_zipfile_serialization=False)
    loaded = load_model(tmp_path / "published.pth", heads=4)
    assert loaded.info.class_names == CLASSES
    assert torch.equal(answer(loaded)[0], answer(plain[0])[0])


def test_a_state_dict_loads_into_a_model_of_its_shape(plain):
    fresh = load_checkpoint(type(plain[0])(plain[0].options), plain[1]).eval()
    assert torch.equal(answer(fresh)[1], answer(plain[0])[1])


def test_averaged_weights_are_chosen_by_key(plain, tmp_path):
    other = {key: value * 2 if "bbox_head" in key else value for key, value in plain[1].items()}
    path = save_training(tmp_path / "ema.pth", plain[1], config_of(plain[0]), ema=other)
    line = refused(path, "several sets of weights: state_dict, ema_state_dict.module", "--key ema_state_dict.module")
    assert "message_hub" not in line
    for key in ("ema_state_dict.module", "ema_state_dict"):
        assert torch.equal(load_model(path, key=key).class_embed[0].weight, 2 * plain[0].class_embed[0].weight)
    assert torch.equal(load_model(path, key="state_dict").class_embed[0].weight, plain[0].class_embed[0].weight)


def test_settings_and_image_sides_come_from_the_configuration(plain, tmp_path):
    loaded = load_model(save_training(tmp_path / "epoch_50.pth", plain[1], config_of(plain[0])))
    assert (loaded.info.short_side, loaded.info.long_side) == (384, 640)
    assert (loaded.options.heads, loaded.options.dropout) == (4, 0.1)
    assert loaded.info.class_names == ()


def test_refinement_comes_from_the_configuration_where_heads_are_still_equal(tmp_path):
    model = randomised("refined")
    model.bbox_embed[1].load_state_dict(model.bbox_embed[0].state_dict())
    model.class_embed[1].load_state_dict(model.class_embed[0].state_dict())
    path = save_training(tmp_path / "iter_0.pth", theirs(model, "deformable_detr"), config_of(model))
    assert torch.equal(answer(load_model(path))[1], answer(model)[1])


def test_classes_of_coco_have_coco_ids_and_heads_that_are_too_wide_unnamed_labels(plain, tmp_path):
    state = {
        key: torch.randn(80, *value.shape[1:]) if "cls_branches" in key else value for key, value in plain[1].items()
    }
    for key in state:
        if "cls_branches" in key:
            state[key] = state[key.replace("branches.1", "branches.0")]
    loaded = load_model(save_training(tmp_path / "coco.pth", state, classes=list(COCO_IDS)), heads=4)
    assert loaded.info.category_ids == tuple(COCO_IDS.values())
    loaded = load_model(save_training(tmp_path / "own.pth", state, classes=CLASSES), heads=4)
    assert loaded.info.class_names == (*CLASSES, *[""] * 75)
    assert loaded.info.category_ids == ()


SETTINGS = {
    "caffe": ("style='pytorch'", "style='caffe'", "style is 'caffe'"),
    "dilated": ("style='pytorch'", "dilations=(1, 1, 1, 2)", "dilations is a list"),
    "another backbone": ("type='ResNet'", "type='SwinTransformer'", "only ResNet can be imported"),
    "other pixels": ("bgr_to_rgb=True", "bgr_to_rgb=False", "bgr_to_rgb is False"),
    "heads apart": ("cross_attn_cfg=dict(num_heads=4)", "cross_attn_cfg=dict()", "different heads: 4, 8"),
    "no heads": ("num_heads=4), ffn", "num_heads=0), ffn", "num_heads is 0"),
    "an activation": (
        "ffn_cfg=dict(ffn_drop=0.1))),",
        "ffn_cfg=dict(act_cfg=dict(type='SiLU')))),",
        "activation is 'SiLU'",
    ),
    "positions": ("offset=-0.5", "offset=0", "offset is 0; only -0.5"),
    "squashed images": ("keep_ratio=True", "keep_ratio=False", "keep_ratio is False"),
    "a huge image": ("scale=(640, 384)", "scale=(640, 10**9)", "scale"),
    "proposals that are not refined": ("with_box_refine=False", "with_box_refine='no'", "expected true or false"),
    "no Python": ("model = dict(", "model = dict((", "meta.cfg is damaged"),
    "an expression": ("model = dict(", "model = build(", "model is a PythonExpression, expected an object"),
}


@pytest.mark.parametrize(("before", "after", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_cannot_be_imported_are_named(plain, tmp_path, before, after, message):
    cfg = config_of(plain[0])
    assert before in cfg
    path = save_training(tmp_path / "epoch_50.pth", plain[1], cfg.replace(before, after))
    refused(path, "meta.cfg", message)


META = {
    "names of others": ({"classes": ["a"] * 6}, "has 6 names, the weights have 5 classes"),
    "a text": ({"classes": "car"}, "classes is 'car', expected a list of names"),
    "numbers": ({"CLASSES": [1, 2]}, "expected a list of names"),
    "no settings": ([], "dataset_meta is a list, expected an object"),
}


@pytest.mark.parametrize(("dataset", "message"), META.values(), ids=META)
def test_names_of_classes_that_cannot_be_are_refused(plain, tmp_path, dataset, message):
    torch.save({"state_dict": plain[1], "meta": {"dataset_meta": dataset}}, tmp_path / "epoch_50.pth")
    refused(tmp_path / "epoch_50.pth", "meta", message, heads=4)


@pytest.mark.parametrize(
    ("key", "words"),
    {
        "bbox_head.transformer.encoder.layers.0.norms.0.weight": ("of a version before 3",),
        "dn_query_generator.label_embedding.weight": ("neither Deformable DETR nor DAB-DETR",),
        "backbone.stem.0.weight": ("neither Deformable DETR nor DAB-DETR",),
        "mask_head.weight": ("it has mask_head.weight",),
    }.items(),
)
def test_other_detectors_of_mmdetection_are_refused_by_the_first_tensor_without_a_name(plain, tmp_path, key, words):
    path = save_training(tmp_path / "epoch_50.pth", {key: torch.ones(3), **plain[1]})
    refused(path, key, *words)
    with pytest.raises(UserError, match="the state dict: it has"):
        load_checkpoint(plain[0], {key: torch.ones(3), **plain[1]})


def test_meta_of_another_file_is_left_alone(plain, tmp_path):
    torch.save({"model": plain[0].state_dict(), "meta": "of 2023"}, tmp_path / "own.pth")
    assert read_checkpoint(tmp_path / "own.pth")[2] == {"meta": "of 2023"}
    assert load_model(tmp_path / "own.pth", heads=4).info.class_names == ()
