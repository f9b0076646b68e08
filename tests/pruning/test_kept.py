"""Kept sets for people who have only widths, or what a published search left behind."""

import pytest
import torch

from greedyprune import UserError
from greedyprune.pruning.kept import kept_by_magnitude, kept_from_masks
from greedyprune.pruning.transplant import transplant

from ..helpers.engine import subject


def test_magnitude_keeps_the_channels_with_weights_and_the_first_items() -> None:
    one = subject()
    state = one.model.state_dict()
    with torch.no_grad():
        state["transformer.decoder.layers.1.linear1.weight"][5:] *= 1e-4
        state["transformer.decoder.layers.1.linear1.bias"][5:] *= 1e-4
    widths = {"decoder.1.ffn": 5, "queries": 4, "encoder.0": 0, "decoder.0.cross": 8}
    kept = kept_by_magnitude(one.sites, state, widths)
    assert kept["decoder.1.ffn"] == (0, 1, 2, 3, 4)
    assert kept["queries"] == (0, 1, 2, 3)
    assert kept["encoder.0"] == ()
    assert len(kept["decoder.0.cross"]) == 8
    slim = transplant(one.family, one.model, kept)
    found = {site.name: site.full for site in one.family.sites(slim)}
    assert {name: found[name] for name in ("decoder.1.ffn", "queries", "decoder.0.cross")} == {
        "decoder.1.ffn": 5,
        "queries": 4,
        "decoder.0.cross": 8,
    }
    assert "encoder.0" not in found


def test_a_list_with_a_layer_that_is_gone_becomes_kept_sets() -> None:
    one = subject("deformable, refined")
    text = "[[[8, 20], [0, 0]], [[32, 32, 40], [0, 0, 0], [16, 4, 8]]]"
    layout = one.family.layout(one.model)
    widths = layout.parse(text)
    slim = transplant(one.family, one.model, kept_by_magnitude(one.sites, one.model.state_dict(), widths))
    found = {site.name: site.full for site in one.family.sites(slim)}
    assert found["decoder.2.cross"] == 4
    assert not any(name.startswith(("encoder.1", "decoder.1")) for name in found)
    assert one.answer(slim).logits.shape == (2, 9, 4)


def test_published_masks_become_kept_sets_with_equal_heads() -> None:
    one = subject()
    mask = torch.zeros(32)
    mask[[0, 1, 2, 9, 16, 17, 24, 25]] = torch.tensor([0.9, 0.8, 0.1, 0.5, 0.6, 0.6, 0.7, 0.7])
    kept, exchanged = kept_from_masks(one.sites, {"encoder.0.attn": mask})
    assert exchanged == 1  # head 0 gives up its weakest, channel 2, and head 1 takes its first one back
    assert kept == {"encoder.0.attn": (0, 1, 8, 9, 16, 17, 24, 25)}


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(16), "the search mask of encoder.0.attn has 16 channels, the model has 32"),
        (torch.zeros(32), "the search mask of encoder.0.attn keeps no channel"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        kept_from_masks(subject().sites, {"encoder.0.attn": mask})
