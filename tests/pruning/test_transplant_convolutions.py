"""DESIGN law 1 for sites that share tensors, have several writers, and lie in a dimension several times."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greedyprune import UserError
from greedyprune.pruning.transplant import kept_change, masked, transplant
from greedyprune.sites import Change

from ..helpers.convolutional import NETS, convolutional
from ..helpers.engine import bits, farthest, unchanged
from ..helpers.kept import kept_sets

SUBJECTS = {kind: convolutional(kind) for kind in NETS}
SOME = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", NETS)
@SOME
@given(data=st.data())
def test_slim_answers_as_masked_and_so_does_the_slim_model_pruned_again(kind: str, data: st.DataObject) -> None:
    one = SUBJECTS[kind]
    before, model = bits(one.model), one.model
    for _ in range(2):
        sites = one.family.sites(model)
        kept = data.draw(kept_sets(sites))
        slim = transplant(one.family, model, kept)
        assert farthest(one.answer(slim), one.answer(masked(one.family, model, kept))) < 2e-5
        full = {site.name: len(kept.get(site.name, range(site.full))) for site in sites}
        assert {site.name: site.full for site in one.family.sites(slim)} == full
        model = slim
    assert unchanged(one.model, before)


@pytest.mark.parametrize("kind", NETS)
def test_cuts_of_one_tensor_are_the_same_in_any_order(kind: str) -> None:
    one, rng = SUBJECTS[kind], random.Random(0)
    sites, state = list(one.sites), one.model.state_dict()
    kept = {}
    for site in sites:
        chosen = rng.sample(range(site.full // site.unit), max(site.least, site.full // 2) // site.unit)
        kept[site.name] = sorted(unit * site.unit + channel for unit in chosen for channel in range(site.unit))
    first = kept_change(sites, state, kept)
    for _ in range(4):
        rng.shuffle(sites)
        other = kept_change(sites, state, kept)
        assert first.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(first.tensors[name], tensor) for name, tensor in other.tensors.items())
        assert first.settings == other.settings


def test_a_wrong_place_is_seen() -> None:
    one = SUBJECTS["reorganised"]
    kept = {"aside.0": (0, 3), "third.0": range(0, 24, 2)}
    change = kept_change(one.sites, one.model.state_dict(), kept)
    weight = change.tensors["last.0.weight"]
    wrong = one.family.slim(one.model, change | Change({"last.0.weight": weight.roll(1, 1)}))
    assert farthest(one.answer(wrong), one.answer(masked(one.family, one.model, kept))) > 1e-3


def test_channels_that_stay_together_are_not_taken_apart() -> None:
    one = SUBJECTS["reorganised in fours"]
    with pytest.raises(UserError, match=r"aside\.0 keeps a part of unit 1; its 4 channels stay together"):
        transplant(one.family, one.model, {"aside.0": (0, 1, 2, 3, 5)})
