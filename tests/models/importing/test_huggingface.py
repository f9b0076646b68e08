"""HuggingFace's own DAB-DETR is a second implementation: after the import ours must answer alike."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from greedyprune import UserError, load_model
from greedyprune.commands.import_hf import main
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


def huggingface(**settings):
    own = {"hidden_size": 32, "temperature_height": 15, "temperature_width": 30, "auxiliary_loss": True}
    config = transformers.DabDetrConfig(backbone_config=resnet(["stage4"]), **{**SHAPE, **own, **settings})
    torch.manual_seed(0)
    return randomised(transformers.DabDetrForObjectDetection(config).eval(), ("conv_encoder", "refpoint"))


@pytest.fixture(
    scope="module", params=[{}, {"num_patterns": 2, "activation_function": "relu"}], ids=["plain", "patterns"]
)
def saved(request, tmp_path_factory):
    return saved_and_imported(huggingface(**request.param), tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model of which tests make variants."""
    folder = tmp_path_factory.mktemp("source")
    huggingface().save_pretrained(folder)
    return folder


def all_layers(reference, pixels, shown):
    """Logits and boxes of every decoder layer of the HuggingFace model."""
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * len(pixels)
    with torch.no_grad():
        answer = reference(pixel_values=pixels, pixel_mask=shown, labels=labels)
    return [
        *((layer["logits"], layer["pred_boxes"]) for layer in answer.auxiliary_outputs),
        (answer.logits, answer.pred_boxes),
    ]


@pytest.mark.parametrize("sizes", [[(96, 128)], [(96, 128), (64, 100)]], ids=["single", "padded"])
def test_logits_and_boxes_of_every_decoder_layer_agree(saved, sizes):
    reference, model = saved
    pixels, shown = padded_images(sizes)
    wanted = all_layers(reference, pixels, shown)
    # Both cut the inverse sigmoid off near 0 and 1, but not at the same place: the comparison stays between.
    assert all(((boxes > 1e-3) & (boxes < 1 - 1e-3)).all() for _, boxes in wanted)
    with torch.no_grad():
        answer = model(ImageBatch(pixels, shown == 0))
    found = [*answer.earlier, answer]
    assert len(found) == len(wanted) == 3
    for ours, (logits, boxes) in zip(found, wanted, strict=True):
        assert logits.std() > 0.1  # there is something to compare
        torch.testing.assert_close(ours.logits, logits, **CLOSE)
        torch.testing.assert_close(ours.boxes, boxes, **CLOSE)


def test_the_inverse_sigmoid_is_the_only_difference_at_the_image_border(tmp_path, monkeypatch):
    reference = huggingface()
    with torch.no_grad():
        reference.model.query_refpoint_embeddings.weight[:4] = torch.tensor([-9.0, 9.0, -9.0, 9.0])
    reference.save_pretrained(tmp_path)
    model = imported(tmp_path, tmp_path / "ours.safetensors")
    pixels, shown = torch.randn(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.long)
    with torch.no_grad():
        found = model(pixels).boxes
    assert not torch.allclose(found, all_layers(reference, pixels, shown)[-1][1], **CLOSE)
    module = transformers.models.dab_detr.modeling_dab_detr
    monkeypatch.setattr(module, "inverse_sigmoid", lambda x: torch.special.logit(x, eps=1e-3))
    torch.testing.assert_close(found, all_layers(reference, pixels, shown)[-1][1], **CLOSE)


def test_options_and_class_names_come_along(saved):
    reference, model = saved
    assert model.info.class_names == CLASS_NAMES
    assert model.info.category_ids == (0, 1, 2, 3, 4, 5)
    assert (model.info.short_side, model.info.long_side) == (800, 1333)
    options = model.options
    assert (options.backbone, options.heads, options.ffn_dim) == ("resnet18", 4, 48)
    assert (options.temperature_h, options.temperature_w) == (15.0, 30.0)
    assert (options.num_queries, options.num_patterns) == (9, reference.config.num_patterns)
    assert options.activation == reference.config.activation_function


def test_names_that_say_nothing_are_left_out_and_the_image_size_comes_from_the_preprocessor(folder, tmp_path):
    here = variant(folder, tmp_path / "here", id2label={str(i): f"LABEL_{i}" for i in range(6)})
    (here / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 480, "longest_edge": 640}}')
    info = imported(here, tmp_path / "ours.safetensors").info
    assert info.class_names == ()
    assert (info.short_side, info.long_side) == (480, 640)


def test_a_weights_file_with_its_config_beside_it_is_enough(folder, tmp_path):
    model = imported(folder / "model.safetensors", tmp_path / "ours.safetensors")
    assert model.options.num_classes == 6


def to_timm(key):
    """The name that a checkpoint with timm's ResNet has: torchvision's own."""
    key = re.sub(r"model\.embedder\.embedder\.convolution", "model.conv1", key)
    key = re.sub(r"model\.embedder\.embedder\.normalization", "model.bn1", key)
    key = re.sub(
        r"encoder\.stages\.(\d)\.layers\.(\d)\.layer\.(\d)\.convolution",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.conv{int(m[3]) + 1}",
        key,
    )
    key = re.sub(
        r"encoder\.stages\.(\d)\.layers\.(\d)\.layer\.(\d)\.normalization",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.bn{int(m[3]) + 1}",
        key,
    )
    for kind, place in (("convolution", 0), ("normalization", 1)):
        key = re.sub(
            rf"encoder\.stages\.(\d)\.layers\.(\d)\.shortcut\.{kind}",
            lambda m, place=place: f"layer{int(m[1]) + 1}.{m[2]}.downsample.{place}",
            key,
        )
    return key


@pytest.mark.parametrize("wrapper", ["", "_backbone."])
def test_timm_names_of_the_backbone_give_the_same_model(folder, tmp_path, wrapper):
    here = variant(folder, tmp_path / "timm", backbone_config=None, backbone="resnet18", use_timm_backbone=True)
    state = {to_timm(key): value for key, value in load_file(here / "model.safetensors").items()}
    prefix = "model.backbone.conv_encoder.model."
    assert not any("stages" in key or "embedder" in key for key in state)
    state = {key.replace(prefix, prefix + wrapper): value for key, value in state.items()}
    (here / "model.safetensors").unlink()
    save_file(state, here / "model.safetensors")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = imported(here, tmp_path / "timm.safetensors")(pixels)
        wanted = imported(folder, tmp_path / "own.safetensors")(pixels)
    assert torch.equal(found.logits, wanted.logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "detr"}, "model_type is 'detr'"),
        ({"normalize_before": True}, "normalize_before is True"),
        ({"keep_query_pos": True}, "keep_query_pos"),
        ({"sine_position_embedding_scale": 3.0}, "sine_position_embedding_scale is 3.0"),
        ({"decoder_ffn_dim": 64}, "encoder_ffn_dim is 48 and decoder_ffn_dim 64"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "swin_tiny"}}, "swin_tiny"),
        ({"backbone_config": {"model_type": "resnet", "downsample_in_bottleneck": True}}, "downsample_in_bottleneck"),
        ({"backbone_config": "resnet18"}, "expected an object"),
        ({"encoder_attention_heads": "four", "decoder_attention_heads": "four"}, "encoder_attention_heads is 'four'"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name_and_nothing_is_written(folder, tmp_path, change, message):
    here = variant(folder, tmp_path / "changed", **change)
    refuse_import(here, tmp_path / "ours.safetensors", message)


def test_missing_and_broken_files_are_named(folder, tmp_path):
    output = ["--output", str(tmp_path / "ours.safetensors")]
    with pytest.raises(UserError, match="nowhere does not exist"):
        main([str(tmp_path / "nowhere"), *output])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty has no model\.safetensors"):
        main([str(empty), *output])
    shutil.copy(folder / "model.safetensors", empty)
    with pytest.raises(UserError, match=r"config.json does not exist"):
        main([str(empty), *output])
    (empty / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config.json is broken"):
        main([str(empty), *output])
    shutil.copy(folder / "config.json", empty)
    with pytest.raises(UserError, match="is the file to import"):
        main([str(empty), "--output", str(empty / "model.safetensors")])
    data = (empty / "model.safetensors").read_bytes()
    (empty / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated"):
        main([str(empty), *output])


def test_loading_the_huggingface_file_itself_says_what_to_do(folder):
    with pytest.raises(UserError, match=r"tools/import_hf\.py"):
        load_model(folder / "model.safetensors")
