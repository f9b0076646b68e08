"""Methods that look at images: the engine's scorers at the widths of `filter_l1`, and what they need."""

import pytest
import torch

from greedyprune import UserError
from greedyprune.classical import METHODS, Subject
from greedyprune.pruning import scorers
from greedyprune.pruning.cutter import Cutter

from ..helpers.engine import GRID, farthest, subject


@pytest.mark.slow
@pytest.mark.parametrize("name", ["basis", "taylor", "sensitivity_weight_unlabelled"])
def test_every_one_cuts_convolutions_to_the_same_widths(name: str) -> None:
    one = subject("dn_detr")
    about = Subject(one.family, one.model, one.batches(1))
    slim = METHODS[name].apply(about, 0.4)
    plain = METHODS["filter_l1"].apply(about, 0.4)
    widths, expected = ({s.name: s.full for s in one.family.sites(model)} for model in (slim, plain))
    assert widths == expected != {s.name: s.full for s in one.sites}
    by_hand = Cutter(scorers.given(one.activations(one.batches(1)), one.sites), METHODS[name].scorer, name == "basis")
    convolutions = {site.name: widths[site.name] for site in about.convolutions}
    assert farthest(one.answer(slim), one.answer(one.family.slim(one.model, by_hand.change(convolutions)))) < 1e-5


def test_the_closed_form_is_nearer_to_the_dense_answer_than_the_same_widths_by_l1() -> None:
    one = subject(GRID)
    about = Subject(one.family, one.model, one.batches(8))
    errors = []
    for name in ("basis", "filter_l1"):
        slim = METHODS[name].apply(about, 0.5)
        pairs = ((one.answer(slim, images), one.answer(images=images)) for images, _ in one.batches(8).iterate())
        errors.append(sum(float((near.logits - dense.logits).square().mean()) for near, dense in pairs))
    assert errors[0] < 0.5 * errors[1]


def test_what_is_looked_at_is_measured_once_for_all_amounts() -> None:
    one = subject(GRID)
    about = Subject(one.family, one.model, one.batches(2))
    METHODS["basis"].apply(about, 0.3)
    before = about.given.bench.image_forwards
    METHODS["basis"].apply(about, 0.6)
    METHODS["magnitude"].apply(about, 0.6)
    assert about.given.bench.image_forwards == before


def test_without_images_or_a_loss_it_is_refused() -> None:
    one = subject(GRID)
    with pytest.raises(UserError, match="this method looks at images, and there are none; give a data set"):
        METHODS["basis"].apply(Subject(one.family, one.model), 0.3)
    with pytest.raises(UserError, match="sensitivity needs a loss, and a grid detector has none here"):
        METHODS["sensitivity"].apply(Subject(one.family, one.model, one.batches(1)), 0.3)


def test_the_model_is_left_as_it_was() -> None:
    one = subject("dn_detr")
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in one.model.parameters()]
    METHODS["sensitivity"].apply(Subject(one.family, one.model, one.batches(1)), 0.3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
    assert grads == [parameter.requires_grad for parameter in one.model.parameters()]
