"""`layers`: pairs from the end or by least damage, as many of every stack, and what is left answers alone."""

import itertools

import pytest
import torch

from greedyprune import UserError, load, save
from greedyprune.classical import METHODS, Subject
from greedyprune.pruning.damage import divergence
from greedyprune.pruning.transplant import kept_change

from ..helpers.engine import GRID, farthest, subject
from ..helpers.engine import Subject as Engine

ENCODER = ["encoder.0", "encoder.1"]
DECODER = ["decoder.0", "decoder.1", "decoder.2"]


def layers_of(one: Engine, model: torch.nn.Module) -> list[str]:
    return [site.name for site in one.family.sites(model) if site.part == "layers"]


@pytest.mark.parametrize("kind", ["dn_detr", "deformable, refined", "deformable, two stages"])
def test_the_last_of_encoder_and_decoder_leave_and_the_rest_is_a_detector_by_itself(kind: str, tmp_path) -> None:
    one = subject(kind)
    assert layers_of(one, one.model) == [*ENCODER, *DECODER]
    slim = METHODS["layers"].apply(Subject(one.family, one.model), 1)
    assert layers_of(one, slim) == [*ENCODER[:-1], *DECODER[:-1]]
    by_hand = kept_change(one.sites, one.model.state_dict(), {"encoder.1": (), "decoder.2": ()})
    assert farthest(one.answer(slim), one.answer(one.family.slim(one.model, by_hand))) == 0
    save(slim, tmp_path / "slim.safetensors")
    assert farthest(one.answer(load(tmp_path / "slim.safetensors")), one.answer(slim)) == 0


@pytest.mark.slow
def test_least_damage_takes_what_the_answers_miss_least_one_after_another() -> None:
    one = subject("dn_detr")
    batches = one.batches(2)
    about = Subject(one.family, one.model, batches)
    slim = METHODS["layers_least_damage"].apply(about, 2)

    def damage(gone: list[str]) -> float:
        change = kept_change(one.sites, one.model.state_dict(), dict.fromkeys(gone, ()))
        model, total = one.family.slim(one.model, change), 0.0
        for images, _ in batches.iterate():
            pairs = one.answer(model, images), one.answer(images=images)
            total += float(divergence(*pairs, change.pairing).sum())
        return total

    gone: list[str] = []
    for stack in itertools.islice(itertools.cycle((ENCODER, DECODER)), 4):
        left = [name for name in stack if name not in gone]
        gone.append(min(left, key=lambda name: damage([*gone, name])))
    # Of a decoder the last layer is no site any more.
    assert set(layers_of(one, slim)) == {*ENCODER, *DECODER} - set(gone) - set(DECODER)
    assert len(gone) == 4


def test_amounts_are_of_the_dense_model_where_layers_have_left() -> None:
    one = subject("dn_detr")
    about = Subject(one.family, one.model)
    once = METHODS["layers"].apply(about, 1)
    twice = METHODS["layers"].apply(about.after(once), 2)
    assert farthest(one.answer(twice), one.answer(METHODS["layers"].apply(about, 2))) == 0
    again = METHODS["layers"].apply(about.after(once), 1)
    assert farthest(one.answer(again), one.answer(once)) == 0


def test_more_layers_than_there_are_and_detectors_without_are_refused() -> None:
    one = subject("dn_detr", enc_layers=4)
    with pytest.raises(UserError) as refused:
        METHODS["layers"].apply(Subject(one.family, one.model), 3)
    assert str(refused.value) == (
        "layers: 3 layers are to leave of every stack, and of decoder layer 0 to decoder layer 2 at most 2 can"
    )
    grid = subject(GRID)
    with pytest.raises(UserError, match="layers: this grid detector has no layers that can leave"):
        METHODS["layers"].apply(Subject(grid.family, grid.model), 1)
    with pytest.raises(UserError, match=r"layers: the amount is 0.5, it must be a whole number of at least 1"):
        METHODS["layers"].apply(Subject(one.family, one.model), 0.5)
