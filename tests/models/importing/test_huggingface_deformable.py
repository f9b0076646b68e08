"""HuggingFace's own Deformable DETR is a second implementation: after the import ours must answer alike."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from greedyprune import UserError, load_model
from greedyprune.models import ImageBatch

from .small_huggingface import (
    CLASS_NAMES,
    CLOSE,
    SHAPE,
    imported,
    padded_images,
    randomised,
    refuse_import,
    resnet,
    saved_and_imported,
    transformers,
    variant,
)

KINDS = {
    "plain": {},
    "one level": {"num_feature_levels": 1, "activation_function": "gelu"},
    "refined": {"with_box_refine": True, "encoder_n_points": 2, "decoder_n_points": 3},
    "two stages": {"with_box_refine": True, "two_stage": True},
}


def huggingface(**settings):
    stages = ["stage2", "stage3", "stage4"][-min(settings.get("num_feature_levels", 4), 3) :]
    own = {"d_model": 32, "two_stage_num_proposals": 11}
    config = transformers.DeformableDetrConfig(backbone_config=resnet(stages), **{**SHAPE, **own, **settings})
    torch.manual_seed(0)
    return randomised(transformers.DeformableDetrForObjectDetection(config).eval(), ("conv_encoder",))


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def saved(request, tmp_path_factory):
    return saved_and_imported(huggingface(**request.param), tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model of which tests make variants."""
    folder = tmp_path_factory.mktemp("source")
    huggingface().save_pretrained(folder)
    return folder


def all_layers(reference, pixels, shown):
    """Logits and boxes of every decoder layer of the HuggingFace model, and its proposals."""
    layers = []
    hooks = [
        head.register_forward_hook(lambda _, __, logits, kept=layers: kept.append(logits))
        for head in list(reference.class_embed)[: reference.config.decoder_layers]
    ]
    with torch.no_grad():
        answer = reference(pixel_values=pixels, pixel_mask=shown)
    for hook in hooks:
        hook.remove()
    return layers, answer


@pytest.mark.parametrize("sizes", [[(96, 128)], [(96, 128), (64, 100)]], ids=["single", "padded"])
def test_logits_and_boxes_agree(saved, sizes):
    reference, model = saved
    pixels, shown = padded_images(sizes)
    layers, wanted = all_layers(reference, pixels, shown)
    with torch.no_grad():
        found = model(ImageBatch(pixels, shown == 0))
    assert wanted.logits.std() > 0.1  # there is something to compare
    torch.testing.assert_close(found.logits, wanted.logits, **CLOSE)
    torch.testing.assert_close(found.boxes, wanted.pred_boxes, **CLOSE)
    for ours, theirs in zip([*found.earlier, found], layers[-3:], strict=True):
        torch.testing.assert_close(ours.logits, theirs, **CLOSE)
    if model.options.two_stage:
        torch.testing.assert_close(found.proposals.logits, wanted.enc_outputs_class, **CLOSE)
        boxes = wanted.enc_outputs_coord_logits.sigmoid()
        torch.testing.assert_close(found.proposals.boxes, boxes, **CLOSE)


@pytest.mark.parametrize("kind", ["plain", "refined"])
def test_gradients_of_the_queries_agree(tmp_path, kind):
    reference, model = saved_and_imported(huggingface(**KINDS[kind]), tmp_path)
    pixels, shown = padded_images([(96, 128), (64, 100)])
    theirs = reference(pixel_values=pixels, pixel_mask=shown)
    (theirs.logits.square().sum() + theirs.pred_boxes.square().sum()).backward()
    ours = model(ImageBatch(pixels, shown == 0))
    (ours.logits.square().sum() + ours.boxes.square().sum()).backward()
    wanted = reference.model.query_position_embeddings.weight.grad
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(model.query_embed.weight.grad, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


def test_options_and_classes_come_along(saved):
    reference, model = saved
    config, options = reference.config, model.options
    assert options.two_stage == config.two_stage
    assert options.with_box_refine == config.with_box_refine
    assert (options.enc_n_points, options.dec_n_points) == (config.encoder_n_points, config.decoder_n_points)
    assert options.num_queries == (config.two_stage_num_proposals if config.two_stage else config.num_queries)
    assert model.info.class_names == CLASS_NAMES


@pytest.mark.slow
def test_heads_that_the_file_holds_under_every_name_load_alike(folder, tmp_path):
    here = tmp_path / "all"
    here.mkdir()
    (here / "config.json").write_text((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    for index in (1, 2):
        for key in [key for key in state if re.match(r"(class|bbox)_embed\.0\.", key)]:
            state[key.replace("_embed.0.", f"_embed.{index}.")] = state[key].clone()
    save_file(state, here / "model.safetensors")
    pixels = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        found = imported(here, tmp_path / "all.safetensors")(pixels)
        wanted = imported(folder, tmp_path / "one.safetensors")(pixels)
    assert torch.equal(found.logits, wanted.logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "learned"}, "position_embedding_type is 'learned'"),
        ({"activation_function": "silu"}, "activation_function is 'silu'"),
        ({"decoder_ffn_dim": 64}, "encoder_ffn_dim is 48 and decoder_ffn_dim 64; Deformable DETR has one for both"),
        ({"num_feature_levels": 1}, "stage2, stage3, stage4 of the backbone are read; 1 levels need stage4"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(folder, tmp_path, change, message):
    here = variant(folder, tmp_path / "changed", **change)
    refuse_import(here, tmp_path / "ours.safetensors", message)


def test_loading_the_huggingface_file_itself_says_what_to_do(folder):
    with pytest.raises(UserError, match=r"tools/import_hf\.py"):
        load_model(folder / "model.safetensors")
