import math

import pytest
import torch
from torch import nn

from greedyprune import UserError, build_model
from greedyprune.models import Features, ImageBatch, pad_images
from greedyprune.models.backbone import RESNETS, Backbone
from greedyprune.models.features import Levels
from greedyprune.models.layers import DecoderLayer, EncoderLayer, Heads, LayerOptions, PackedSelfAttention
from greedyprune.models.level_attention import LevelDecoderLayer
from greedyprune.models.position import box_positions, image_positions

from .small_model import SHAPE


def detector(**options):
    """A model whose boxes move; the box head starts as zeros."""
    model = build_model("dn_detr", **SHAPE | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def softmax_heads(q, k, v, heads, visible):
    """Attention as its definition reads: one head, one query at a time."""
    out = torch.zeros(len(q), v.shape[1])
    size, value_size = q.shape[1] // heads, v.shape[1] // heads
    for head in range(heads):
        chosen = slice(head * size, (head + 1) * size)
        for n in range(len(q)):
            scores = [q[n, chosen] @ k[m, chosen] / math.sqrt(size) for m in range(len(k))]
            weights = torch.stack([s.exp() if visible[n, m] else s * 0 for m, s in enumerate(scores)])
            value = v[:, head * value_size : (head + 1) * value_size]
            out[n, head * value_size : (head + 1) * value_size] = weights / weights.sum() @ value
    return out


def test_dense_self_attention_is_that_of_pytorch():
    ours, theirs = PackedSelfAttention(32, 32, Heads(4)), nn.MultiheadAttention(32, 4, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict())
    x, pos = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    keys = torch.tensor([[True] * 5, [True, True, True, False, False]])
    wanted, _ = theirs(x + pos, x + pos, x, key_padding_mask=~keys)
    torch.testing.assert_close(ours(x, pos, keys[:, None, None]), wanted)


def test_slim_self_attention_scales_by_its_own_head_width():
    layer = PackedSelfAttention(32, 8, Heads(4))
    nn.init.xavier_uniform_(layer.in_proj_weight)
    x, pos, visible = torch.randn(1, 5, 32), torch.randn(1, 5, 32), torch.rand(5, 5) < 0.7
    visible |= torch.eye(5, dtype=torch.bool)
    q, k, v = layer.in_proj_weight.split(8)
    heads = softmax_heads((x + pos)[0] @ q.T, (x + pos)[0] @ k.T, x[0] @ v.T, 4, visible)
    torch.testing.assert_close(layer(x, pos, visible)[0], layer.out_proj(heads))


def test_the_encoder_layer_is_pytorchs_post_norm_layer():
    ours = EncoderLayer(LayerOptions(32, Heads(4), "relu"), (32, 48))
    theirs = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(ours(x, torch.zeros_like(x), None), theirs(x))


@pytest.mark.parametrize("first", [True, False])
def test_the_decoder_layer_is_conditional_attention_head_by_head(first):
    layer = DecoderLayer(LayerOptions(32, Heads(4)), (16, 8, 24), first)
    x, memory, pos, query_pos, sine = (torch.randn(1, n, 32) for n in (3, 6, 6, 3, 3))
    self_visible = torch.tensor([[True, True, False], [True, True, True], [False, True, True]])
    memory_visible = torch.tensor([[True, True, True, True, False, False]])
    features = Features(memory, pos, memory_visible)
    found = layer(x, memory, features, query_pos=query_pos, query_sine=sine, self_shown=self_visible)
    q = layer.sa_qcontent_proj(x) + layer.sa_qpos_proj(query_pos)
    k = layer.sa_kcontent_proj(x) + layer.sa_kpos_proj(query_pos)
    heads = softmax_heads(q[0], k[0], layer.sa_v_proj(x)[0], 4, self_visible)
    x = layer.norm1(x + layer.self_attn.out_proj(heads))

    q, k, k_pos = layer.ca_qcontent_proj(x)[0], layer.ca_kcontent_proj(memory)[0], layer.ca_kpos_proj(pos)[0]
    q_sine = layer.ca_qpos_sine_proj(sine)[0]
    if first:
        q, k = q + layer.ca_qpos_proj(query_pos)[0], k + k_pos
    # Each head has its content channels followed by its position channels.
    q = torch.cat(
        [part for head in range(4) for part in (q[:, 2 * head :][:, :2], q_sine[:, 2 * head :][:, :2])], dim=1
    )
    k = torch.cat([part for head in range(4) for part in (k[:, 2 * head :][:, :2], k_pos[:, 2 * head :][:, :2])], dim=1)
    heads = softmax_heads(q, k, layer.ca_v_proj(memory)[0], 4, memory_visible.expand(3, 6))
    x = layer.norm2(x + layer.cross_attn.out_proj(heads))
    x = layer.norm3(x + layer.linear2(layer.activation(layer.linear1(x))))
    torch.testing.assert_close(found, x)


def test_dropout_acts_in_training_only():
    layer = EncoderLayer(LayerOptions(32, Heads(4), dropout=0.5), (32, 48))
    nn.init.xavier_uniform_(layer.self_attn.in_proj_weight)
    x = torch.randn(2, 5, 32)
    assert not torch.equal(layer(x, x, None), layer(x, x, None))
    layer.eval()
    assert torch.equal(layer(x, x, None), layer(x, x, None))


def test_image_positions_count_the_cells_of_the_unpadded_image():
    padding = torch.ones(2, 3, 4, dtype=torch.bool)
    padding[0, :2, :3] = False
    padding[1] = False
    found = image_positions(padding, 8, 20.0, 10.0)
    for image, (height, width) in enumerate(((2, 3), (3, 4))):
        for y in range(height):
            for x in range(width):
                wanted = []
                for place, length, temperature in ((y, height, 20.0), (x, width, 10.0)):
                    angle = 2 * math.pi * (place + 1) / length
                    for pair in range(2):
                        wanted += [f(angle / temperature ** (2 * pair / 4)) for f in (math.sin, math.cos)]
                torch.testing.assert_close(found[image, 4 * y + x], torch.tensor(wanted), rtol=1e-5, atol=1e-5)


def test_box_positions_are_ordered_y_x_w_h():
    found = box_positions(torch.tensor([0.1, 0.2, 0.3, 0.4]), 4)
    wanted = []
    for value in (0.2, 0.1, 0.3, 0.4):
        for pair in range(2):
            wanted += [f(2 * math.pi * value / 10000 ** (2 * pair / 4)) for f in (math.sin, math.cos)]
    torch.testing.assert_close(found, torch.tensor(wanted))


@pytest.mark.parametrize("name", [*RESNETS, "small"])
def test_every_backbone_gives_features_of_its_channels_and_stride(name):
    with torch.device("meta"):  # shapes without the arithmetic
        backbone = Backbone(name)
        (features,) = backbone(ImageBatch(torch.empty(2, 3, 128, 192), None))
    assert features.shape == (2, backbone.channels, 128 // backbone.stride, 192 // backbone.stride)


def test_dilation_doubles_the_feature_map():
    with torch.device("meta"):
        images = ImageBatch(torch.empty(1, 3, 64, 96), None)
        assert Backbone("resnet50")(images)[-1].shape[-2:] == (2, 3)
        assert Backbone("resnet50", dilation=True)(images)[0].shape[-2:] == (4, 6)


def test_the_padding_shrinks_with_the_features():
    backbone, images = Backbone("small"), pad_images([torch.randn(3, 64, 96), torch.randn(3, 32, 64)])
    with torch.no_grad():
        (features,) = backbone(images)
    assert backbone.padding(images, torch.Size((16, 24))).tolist() == images.padding[:, ::4, ::4].tolist()
    padding = backbone.padding(images, features.shape[-2:])
    assert not padding[0].any()
    assert padding[1].tolist() == [[False] * 4 + [True] * 2] * 2 + [[True] * 6] * 2


def test_backbones_that_cannot_be_built_are_refused():
    with pytest.raises(UserError, match="vgg16"):
        Backbone("vgg16")
    with pytest.raises(UserError, match="resnet18 cannot be dilated"):
        Backbone("resnet18", dilation=True)


def test_a_resnet_trains_its_last_three_stages_and_no_norm():
    with torch.device("meta"):
        backbone = Backbone("resnet18")
    trained = {key for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert {key.split(".")[1] for key in trained} == {"layer2", "layer3", "layer4"}
    assert not any("bn" in key for key in trained)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_small_backbones_statistics_move_unless_frozen(freeze):
    model = build_model("dn_detr", **SHAPE, freeze_norm=freeze).train()
    before = model.backbone[0].body.bn1.running_mean.clone()
    model([torch.randn(3, 64, 64)])
    assert torch.equal(model.backbone[0].body.bn1.running_mean, before) == freeze


def test_what_is_in_the_padding_does_not_change_detections():
    model = detector()
    height, width = 3, 4
    tokens = torch.randn(1, height, width, 32)
    free = torch.zeros(1, height, width, dtype=torch.bool)
    alone = Features(tokens.flatten(1, 2), image_positions(free, 32, 20.0, 20.0), None)
    padded = torch.randn(1, 5, 6, 32) * 100
    padded[:, :height, :width] = tokens
    padding = torch.ones(1, 5, 6, dtype=torch.bool)
    padding[:, :height, :width] = False
    positions, shown = image_positions(padding, 32, 20.0, 20.0), ~padding.flatten(1)[:, None, None]
    beside = Features(padded.flatten(1, 2), positions, shown)
    with torch.no_grad():
        wanted, found = model.detect(alone), model.detect(beside)
    for name in ("logits", "boxes"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-5)


def test_an_image_is_detected_alike_alone_and_in_a_padded_batch():
    model = detector()
    large, small = torch.randn(3, 64, 96), torch.randn(3, 48, 64)
    with torch.no_grad():
        batch, alone = model([small, large]), model([large])
        stacked = model(torch.stack([large, large]))
    for name in ("logits", "boxes"):
        torch.testing.assert_close(getattr(batch, name)[1:], getattr(alone, name), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(getattr(stacked, name)[:1], getattr(alone, name), rtol=1e-4, atol=1e-5)


def test_every_decoder_layer_answers():
    with torch.no_grad():
        outputs = detector(dec_layers=3)([torch.randn(3, 64, 64)])
    assert outputs.logits.shape == (1, 7, 6)
    assert outputs.boxes.shape == (1, 7, 4)
    assert [layer.boxes.shape for layer in outputs.earlier] == [(1, 7, 4)] * 2
    boxes = torch.cat([outputs.boxes, *(layer.boxes for layer in outputs.earlier)])
    assert ((boxes > 0) & (boxes < 1)).all()


def test_every_pattern_is_paired_with_every_anchor():
    model = detector(num_patterns=3)
    image = [torch.randn(3, 64, 64)]
    with torch.no_grad():
        assert model(image).logits.shape == (1, 21, 6)
        model.transformer.patterns.weight.zero_()
        found = model(image).logits.view(3, 7, 6)
        model.transformer.patterns = None
        wanted = model(image).logits
    # Patterns that add nothing: three times the same queries, and self-attention over copies is that over one.
    for copy in found:
        torch.testing.assert_close(copy[None], wanted, rtol=1e-4, atol=1e-5)


def test_a_new_model_answers_its_anchors():
    model = build_model("dn_detr", **SHAPE).eval()
    with torch.no_grad():
        outputs = model([torch.randn(3, 64, 64)])
    torch.testing.assert_close(outputs.boxes[0], model.refpoint_embed.weight.sigmoid(), rtol=1e-3, atol=1e-3)
    assert outputs.logits.sigmoid().median() < 0.05


def test_fixed_anchor_centres_cover_the_image():
    model = build_model("dn_detr", **SHAPE | {"num_queries": 300}, random_refpoints_xy=True)
    centres = model.refpoint_embed.weight[:, :2].sigmoid()
    assert (torch.histc(centres, 10, 0, 1) > 30).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden_dim", 30),
        ("heads", 0),
        ("num_patterns", -1),
        ("activation", "tanh"),
        ("backbone", "vgg16"),
        ("dropout", 1.0),
        ("colour", 3),
    ],
)
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(UserError, match=f"{option}.*{value}" if option != "colour" else "'colour' is unknown"):
        build_model("dn_detr", **SHAPE | {option: value})


def test_an_unknown_model_is_refused():
    with pytest.raises(UserError, match="'yolo' is unknown; choose one of dn_detr"):
        build_model("yolo")


def test_images_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"image 1 of the batch has shape \[1, 8, 8\]"):
        pad_images([torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)])
    with pytest.raises(ValueError, match="at least one"):
        pad_images([])


def test_levels_weigh_the_same_whatever_channels_a_slim_self_attention_keeps():
    torch.manual_seed(0)
    options, levels = (
        LayerOptions(32, Heads(4)),
        Levels(((3, 4), (2, 2)), torch.ones(2, 2, 2), torch.rand(2, 16, 2), None),
    )
    dense = LevelDecoderLayer(options, (32, 32, 24), True, 2)
    slim = LevelDecoderLayer(options, (8, 32, 24), True, 2)
    direct = dense.direct_levels()
    assert {name: tensor.shape for name, tensor in direct.items()} == {
        name: tensor.shape for name, tensor in slim.state_dict().items() if name in direct
    }
    memory, pos, x, query_pos, sine = (torch.randn(2, n, 32) for n in (16, 16, 5, 5, 5))
    seen = []
    for layer in (dense, slim):
        layer.cross_attn.register_forward_pre_hook(lambda _, given: seen.append(given[3]))
    slim.load_state_dict(direct, strict=False)
    slim.load_state_dict(slim.direct_levels(), strict=False)  # they are what they are already
    for layer in (dense, slim):
        layer(x, memory, Features(memory, pos, None, levels), query_pos=query_pos, query_sine=sine, self_shown=None)
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-5)
    assert (seen[0].sum(-1) - 1).abs().max() < 1e-5
