"""A detector for other classes: heads and label embeddings are new, everything else is as it was."""

import pytest
import torch

from greedyprune import build_model, load_model
from greedyprune.classes import Classes
from greedyprune.models import Criterion, Denoising, ModelInfo, pad_images, save_checkpoint
from greedyprune.models.new_classes import with_classes
from greedyprune.models.registry import model_name

SHAPE = {"backbone": "small", "hidden_dim": 32, "heads": 4, "enc_layers": 1, "dec_layers": 2, "ffn_dim": 16}
PYRAMID = {"num_feature_levels": 2}
KINDS = {
    "dn_detr": {},
    "dn_deformable_encoder_detr": PYRAMID,
    "dn_deformable_detr": PYRAMID,
    "dn_deformable_detr, two stages": {**PYRAMID, "two_stage": True},
    "deformable_detr": PYRAMID,
    "deformable_detr, own heads": {**PYRAMID, "with_box_refine": True},
    "deformable_detr, two stages": {**PYRAMID, "with_box_refine": True, "two_stage": True},
}
SLIM = [[[16, 8]], [[16, 32, 16], [32, 16, 8]]]
NEW = Classes(4, (0, 2, 5, 9), ("owl", "b", "elk", "a"))
KEPT = {1: 1, 3: 0}
PARTS = ("class_embed", "label_enc")


def trained(kind, cfgs=None):
    """A detector of classes a, b, c, none of whose tensors is as it was made."""
    torch.manual_seed(0)
    info = ModelInfo(("a", "b", "c"), (1, 2, 3), 48, 64)
    model = build_model(kind.split(",")[0], cfgs, info=info, num_classes=3, num_queries=6, **SHAPE, **KINDS[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def adapted(kind, cfgs=None):
    model = trained(kind, cfgs)
    torch.manual_seed(5)
    return model, with_classes(model, NEW, KEPT)


@pytest.mark.parametrize("cfgs", [None, SLIM], ids=["dense", "slim"])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_not_of_classes_is_kept(kind, cfgs):
    model, made = adapted(kind, cfgs)
    old, new = model.state_dict(), made.state_dict()
    assert old.keys() == new.keys()
    for name, tensor in new.items():
        if not name.startswith(PARTS):
            assert torch.equal(tensor, old[name]), name
    assert made.widths == model.widths
    assert (made.info.class_names, made.info.category_ids) == (NEW.names, NEW.ids)
    assert (made.info.short_side, made.info.long_side) == (48, 64)
    assert made.options.to_dict() == {**model.options.to_dict(), "num_classes": 4}
    shared = len({id(tensor) for tensor in made.parameters()})
    assert shared == len({id(tensor) for tensor in model.parameters()})


@pytest.mark.parametrize("kind", KINDS)
def test_kept_classes_start_from_their_rows_and_others_as_in_a_new_model(kind):
    model, made = adapted(kind)
    assert len(made.class_heads) == len(model.class_heads)
    for head, before in zip(made.class_heads, model.class_heads, strict=True):
        assert head.weight.shape == (4, 32)
        for row, old in KEPT.items():
            assert torch.equal(head.weight[row], before.weight[old])
            assert torch.equal(head.bias[row], before.bias[old])
        assert torch.allclose(head.bias[[0, 2]].sigmoid(), torch.tensor(0.01))
        assert head.weight[[0, 2]].abs().max() <= 32**-0.5
        assert head.weight[[0, 2]].std() > 0
    if made.label_enc is not None:
        assert torch.equal(made.label_enc.weight[4], model.label_enc.weight[3])  # "unknown"
        assert torch.equal(made.label_enc.weight[3], model.label_enc.weight[0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "two stages" in kind])
def test_whether_there_is_an_object_is_still_known_by_the_second_stage(kind):
    model, made = adapted(kind)
    assert made.proposal_head is made.class_embed[-1]
    assert torch.equal(made.proposal_head.weight[0], model.proposal_head.weight[0])
    assert torch.equal(made.proposal_head.bias[0], model.proposal_head.bias[0])
    batch = pad_images([torch.randn(3, 48, 64, generator=torch.Generator().manual_seed(1))])
    with torch.no_grad():
        found, wanted = (each(batch).proposals for each in (made, model))
    assert torch.allclose(found.logits[..., 0], wanted.logits[..., 0], atol=1e-5)
    assert torch.equal(found.boxes, wanted.boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_classes_are_answered_as_before_at_the_same_boxes(kind):
    model, made = adapted(kind)
    images = [torch.randn(3, 48, 64, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        new, old = made(images), model(images)
    assert torch.equal(new.boxes, old.boxes)
    assert torch.allclose(new.logits[..., [1, 3]], old.logits[..., [1, 0]], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_opened_and_trained_like_any_other(kind, tmp_path):
    _, made = adapted(kind, SLIM)
    save_checkpoint(made, tmp_path / "made.safetensors")
    opened = load_model(tmp_path / "made.safetensors")
    assert model_name(opened) == model_name(made)
    assert opened.classes == NEW
    targets = [{"labels": torch.tensor([0, 3]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.4, 0.1, 0.3]])}]
    outputs = opened.train()([torch.randn(3, 48, 64)], targets, Denoising(1))
    criterion = Criterion(4)
    criterion.total(criterion(outputs, targets)).backward()
    for head in opened.class_heads:
        assert head.weight.grad.isfinite().all()


def test_the_same_seed_gives_the_same_detector():
    (_, one), (_, two) = adapted("dn_detr"), adapted("dn_detr")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
