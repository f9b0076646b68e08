"""Mending brings a slim model's answers nearer to the dense one's, and touches nothing else."""

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.functional import pil_to_tensor

from greedyprune import load_model
from greedyprune.cli import DEMO_MODEL
from greedyprune.data.shapes import draw_scene
from greedyprune.data.transforms import Normalise
from greedyprune.models import Detector
from greedyprune.pruning.cut import cut_model
from greedyprune.pruning.damage import divergence
from greedyprune.pruning.mend import mend
from greedyprune.pruning.prefix import Prefix, begin
from greedyprune.pruning.scorers import Given, make_cuts
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import transplant

from .test_prefix import MODELS, detector

IMAGES = [[torch.randn(3, 64, 96), torch.randn(3, 48, 80)], [torch.randn(3, 64, 64)] * 2, [torch.randn(3, 48, 96)]]


class Again:
    """Batches over and over, from the first one whenever they are iterated over."""

    def __init__(self, batches: list[list[torch.Tensor]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        return cycle(self.batches)


def halved(model: Detector, prune: str = "transformer") -> Detector:
    """The first half of every group's channels."""
    kept = {}
    for site in list_sites(model, prune):
        first = range(0, site.width, site.group_width)
        kept[site.name] = [start + channel for start in first for channel in range((site.group_width + 1) // 2)]
    return transplant(model, kept)


def prefixes(model: Detector, images: list[list[torch.Tensor]]) -> list[Prefix]:
    with torch.no_grad():
        return [begin(model.features(batch)) for batch in images]


def distance(slim: Detector, dense: Detector, images: list[list[torch.Tensor]]) -> float:
    with torch.no_grad():
        return sum(divergence(slim(batch), dense(batch)).sum().item() for batch in images)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("prune", ["transformer", "all"])
def test_layers_and_cut_blocks_learn_and_nothing_else(kind: str, prune: str) -> None:
    dense = detector(kind)
    slim = halved(dense, prune)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    own = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    takes = [parameter.requires_grad for parameter in slim.parameters()]
    images = None if prune == "transformer" else Again(IMAGES)
    learned = mend(dense, slim, prefixes(dense, IMAGES), 4, images, len(IMAGES))
    parts = ("transformer.encoder.layers.", "transformer.decoder.layers.", "backbone.0.body.layer")
    assert learned
    assert all(name.startswith(parts[: 2 if images is None else 3]) for name in learned)
    changed = {name for name, tensor in slim.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= set(learned)
    assert len(changed) > len(learned) / 2
    assert all(torch.equal(tensor, own[name]) for name, tensor in dense.state_dict().items())
    assert takes == [parameter.requires_grad for parameter in slim.parameters()]
    assert all(parameter.grad is None for model in (dense, slim) for parameter in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("prune", ["transformer", "all"])
@pytest.mark.parametrize("room", [0, 100_000])
def test_what_there_is_no_room_for_goes_through_files_to_the_same_bits(
    kind: str, prune: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written: list[Path] = []

    def save(item: object, file: IO[bytes], save: Callable[..., None] = torch.save) -> None:
        written.append(Path(file.name))
        save(item, file)

    monkeypatch.setattr(torch, "save", save)
    dense = detector(kind)
    one, other = halved(dense, prune), halved(dense, prune)
    images = None if prune == "transformer" else Again(IMAGES)
    mend(dense, one, prefixes(dense, IMAGES), 4, images, len(IMAGES))
    assert not written
    mend(dense, other, prefixes(dense, IMAGES), 4, images, len(IMAGES), room=room)
    assert all(path.is_relative_to(tmp_path) for path in written)
    assert len(written) > 3 * len(IMAGES)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_model_that_is_not_cut_learns_nothing() -> None:
    dense = detector()
    assert mend(dense, transplant(dense, {}), prefixes(dense, IMAGES), 3) == []


def test_channels_of_a_cut_are_balanced_and_so_few_steps_do_no_harm() -> None:
    # In the demo's first decoder layer all queries carry the same: a basis of variance 1 has values of millions there.
    dense = load_model(DEMO_MODEL)
    batches = scenes(3)
    starts = prefixes(dense, batches)
    sites = list_sites(dense)
    cuts = make_cuts("basis", Given(dense, sites, lambda: [(start, []) for start in starts]))
    slim = cut_model(dense, cuts, {site.name: site.width // 2 for site in sites})
    layers = (slim.transformer.encoder.layers, slim.transformer.decoder.layers)
    assert max(parameter.abs().max().item() for part in layers for parameter in part.parameters()) < 100
    before = distance(slim, dense, batches)
    mend(dense, slim, starts, 4)
    assert distance(slim, dense, batches) < 1.05 * before


@pytest.mark.parametrize("prune", ["transformer", "backbone"])
def test_the_demo_answers_unseen_images_more_like_the_dense_one(prune: str) -> None:
    dense = load_model(DEMO_MODEL)
    slim = halved(dense, prune)
    *learned, unseen = scenes(7)
    before = distance(slim, dense, [unseen])
    images = None if prune == "transformer" else Again(learned)
    mend(dense, slim, prefixes(dense, learned), 24, images, len(learned))
    assert distance(slim, dense, [unseen]) < 0.8 * before


def scenes(number: int) -> list[list[torch.Tensor]]:
    """Generated images, normalised, in batches of 8."""
    draw, normalise = np.random.default_rng(0), Normalise()
    none = {"boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(160, 160))}
    drawn = [normalise(pil_to_tensor(draw_scene(draw)[0]), none)[0] for _ in range(8 * number)]
    return [drawn[start : start + 8] for start in range(0, len(drawn), 8)]
