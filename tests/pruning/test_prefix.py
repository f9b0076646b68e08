"""Going on from a layer is the same as running the whole model."""

import pytest
import torch

from greedyprune import build_model
from greedyprune.evaluation.predict import autocast
from greedyprune.models import Criterion
from greedyprune.pruning.prefix import Place, advance, begin, finish, site_place
from greedyprune.pruning.score import candidate_losses
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import masked, transplant

MODELS = {
    "dn_detr": ("dn_detr", {}),
    "patterns": ("dn_detr", {"num_patterns": 2}),
    "deformable encoder": ("dn_deformable_encoder_detr", {"num_patterns": 2}),
    "dn deformable": ("dn_deformable_detr", {}),
    "dn deformable, two stages": ("dn_deformable_detr", {"two_stage": True}),
    "deformable": ("deformable_detr", {}),
    "deformable, refined": ("deformable_detr", {"with_box_refine": True}),
    "deformable, two stages": ("deformable_detr", {"with_box_refine": True, "two_stage": True}),
}


def detector(kind: str = "dn_detr", **more):
    torch.manual_seed(1)
    name, options = MODELS[kind]
    model = build_model(
        name,
        num_classes=4,
        backbone="small",
        hidden_dim=32,
        heads=4,
        enc_layers=2,
        dec_layers=3,
        ffn_dim=40,
        num_queries=9,
        **options,
        **more,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


IMAGES = [torch.randn(3, 64, 96), torch.randn(3, 48, 80)]
TARGETS = [
    {"labels": torch.tensor([1, 3]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.6, 0.3, 0.2]])},
    {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])},
]
PLACES = [
    Place(decoder, layer, ffn) for decoder in (False, True) for layer in range(2 + decoder) for ffn in (False, True)
]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_every_layer_is_a_place_to_go_on_from(place: Place, kind: str) -> None:
    model = detector(kind)
    with torch.inference_mode():
        whole = model(IMAGES)
        prefix = begin(model.features(IMAGES))
        for step in PLACES[: PLACES.index(place) + 1]:
            prefix = advance(model, prefix, step)
        parts = finish(model, prefix)
        last = finish(model, prefix, last_only=True)
    for a, b in [(whole, parts), *zip(whole["aux_outputs"], parts["aux_outputs"], strict=True), (whole, last)]:
        assert torch.allclose(a["pred_logits"], b["pred_logits"], atol=1e-5)
        assert torch.allclose(a["pred_boxes"], b["pred_boxes"], atol=1e-6)
    assert last["aux_outputs"] == []
    assert ("enc_outputs" in parts) == ("enc_outputs" in whole) == ("two stages" in kind)


def test_going_back_is_refused() -> None:
    model = detector()
    with torch.inference_mode():
        prefix = advance(model, begin(model.features(IMAGES)), Place(True, 1))
        with pytest.raises(ValueError, match="encoder layer 1, its FFN lies before decoder layer 1"):
            advance(model, prefix, Place(False, 1, True))


@pytest.mark.parametrize(
    "name", ["encoder.1.attn", "encoder.0.ffn", "decoder.1.self", "decoder.0.cross", "decoder.2.ffn"]
)
@pytest.mark.parametrize("start", [(), (0, 5)])
@pytest.mark.parametrize("kind", ["dn_detr", "dn deformable", "deformable, two stages"])
def test_candidate_losses_are_those_of_models_masked_one_by_one(name: str, start: tuple[int, ...], kind: str) -> None:
    model = detector(kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    site = next(site for site in list_sites(model) if site.name == name)
    criterion = Criterion(4)
    candidates = [2, 9, 30]
    with torch.inference_mode():
        prefix = advance(model, begin(model.features(IMAGES)), site_place(site))
    losses = candidate_losses(model, site, start, candidates, [(prefix, TARGETS)], criterion)
    for loss, candidate in zip(losses.tolist(), candidates, strict=True):
        with torch.inference_mode():
            outputs = masked(model, {name: [*start, candidate]})(IMAGES)
            assert loss == pytest.approx(criterion.total(criterion(outputs, TARGETS)).item(), rel=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["encoder.1.attn", "decoder.1.self", "decoder.0.cross"])
@pytest.mark.parametrize("start", [(), tuple(range(8, 16))])
@pytest.mark.parametrize("kind", ["dn_detr", "deformable"])
def test_candidate_losses_of_heads_are_those_of_models_with_that_head(
    name: str, start: tuple[int, ...], kind: str
) -> None:
    model = detector(kind, whole_heads=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    site = next(site for site in list_sites(model) if site.name == name)
    criterion, candidates = Criterion(4), [0, 24]
    with torch.inference_mode():
        prefix = advance(model, begin(model.features(IMAGES)), site_place(site))
    losses = candidate_losses(model, site, start, candidates, [(prefix, TARGETS)], criterion)
    for loss, first in zip(losses.tolist(), candidates, strict=True):
        with torch.inference_mode():
            outputs = transplant(model, {name: [*start, *range(first, first + 8)]})(IMAGES)
            assert loss == pytest.approx(criterion.total(criterion(outputs, TARGETS)).item(), rel=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_candidates_are_told_apart_in_mixed_precision() -> None:
    model = detector()
    site = next(site for site in list_sites(model) if site.name == "decoder.0.ffn")
    with torch.no_grad():
        prefix = begin(model.features(IMAGES))
    with autocast("cpu", "bf16", in_place=True):
        losses = candidate_losses(model, site, (), range(site.width), [(prefix, TARGETS)], Criterion(4))
    assert len(losses.unique()) > site.width // 2
