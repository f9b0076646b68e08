"""Attention in a new basis: at full width it is the dense one, cut it is the masked one, and beats all else."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from greedyprune.pruning import scorers
from greedyprune.pruning.answers import answer_errors
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.kinds.basis import BasisCut
from greedyprune.pruning.kinds.channels import SiteMoments
from greedyprune.pruning.kinds.readers import ReaderMoments
from greedyprune.pruning.moments import HeadMoments, Moments
from greedyprune.pruning.scorers import Given
from greedyprune.pruning.transplant import masked, transplant
from greedyprune.sites import AttentionSite, Change, installed

from ...helpers.engine import Subject, farthest, shared
from ...helpers.rows import correlated

KINDS = ("dn_detr", "deformable", "dn deformable", "deformable encoder, level by level")
SUBJECTS = {kind: shared(kind) for kind in KINDS}


def attentions(one: Subject) -> list[AttentionSite]:
    return [site for site in one.sites if isinstance(site, AttentionSite)]


def one_of_each(one: Subject) -> list[AttentionSite]:
    """The last attention of each sort."""
    return list({(site.part, site.name.rpartition(".")[2]): site for site in attentions(one)}.values())


def random_moments(site: AttentionSite, one: Subject) -> SiteMoments:
    """Moments that have nothing to do with the model."""
    layer = one.model.get_submodule(site.reader.module)
    rows, power = Moments(site.full), correlated(50, layer.out_features, 3)[0]
    rows.add(correlated(9, site.full, 1)[0], torch.ones(9))  # fewer rows than channels

    def heads(seed: int) -> HeadMoments:
        made = HeadMoments(site.groups, site.group_width)
        made.add(
            correlated(20, site.group_width, seed, site.groups)[None], torch.ones(1, site.groups, 20), centred=True
        )
        return made

    reader = ReaderMoments(site.reader, layer, None, rows, power.T @ power)
    products = range(site.products)
    return SiteMoments((reader,), tuple(heads(7 + n) for n in products), tuple(heads(17 + n) for n in products))


def with_tensors(one: Subject, site: AttentionSite, tensors: Mapping[str, Tensor]) -> Subject:
    return Subject(one.family, one.family.slim(one.model, Change({**tensors, **site.also})), one.images)


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_width_it_is_the_dense_site_whatever_the_moments_were(kind: str) -> None:
    one, refit = SUBJECTS[kind], kind != "deformable"
    for site in one_of_each(one):
        cut = BasisCut(site, one.model.state_dict(), random_moments(site, one), refit)
        tensors = cut.rewritten(site.full)
        assert any(not torch.equal(tensor, one.model.state_dict()[name]) for name, tensor in tensors.items())
        assert farthest(with_tensors(one, site, tensors).answer(), one.answer()) < 2e-3, site.name
        change = cut.change(site.full, one.model.state_dict())
        assert all(tensor is cut.state[name] for name, tensor in change.tensors.items())


def given_by(one: Subject, *sites: AttentionSite) -> Given:
    return scorers.given(one.activations(), sites)


@pytest.mark.parametrize("kind", KINDS)
def test_slim_in_the_new_basis_is_masked_in_the_new_basis(kind: str) -> None:
    one = SUBJECTS[kind]
    sites = one_of_each(one)
    given, tested = given_by(one, *sites), 0
    for site in sites:
        cut = BasisCut(site, given.state, given.moments[site.name], refit=False)
        if cut.shared:  # keys that two products share have a basis for each width
            continue
        rewritten = with_tensors(one, site, cut.rewritten(site.full))
        each = 1 + 2 * tested
        kept = {site.name: tuple(c for c in range(site.full) if c % site.group_width < each)}
        slim = one.family.slim(one.model, cut.change(each * site.groups, given.state))
        assert farthest(one.answer(slim), rewritten.answer(masked(one.family, rewritten.model, kept))) < 2e-3
        assert farthest(one.answer(slim), rewritten.answer(transplant(one.family, rewritten.model, kept))) < 2e-3
        tested += 1
    assert tested == 3


def test_channels_are_as_large_as_what_they_are_multiplied_with() -> None:
    one = SUBJECTS["dn_detr"]
    given, width, tested = given_by(one, *attentions(one)), 16, 0
    for site in attentions(one):
        cut = BasisCut(site, given.state, given.moments[site.name])
        tensors = cut.rewritten(width)
        squares: dict[tuple[str, int], Tensor] = {}
        for key, block in cut._blocks(tensors):
            if block.dim() == 2:
                squares[key] = squares.get(key, 0) + block.square().sum(1)
        squares["output", 0] = tensors[site.reader.weight].square().sum(0)
        pairs = [("value", "output", 0)] + [("query", "key", n) for n in range(0 if cut.shared else site.products)]
        for mine, theirs, space in pairs:
            a, b = squares[mine, space], squares[theirs, space]
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-6 * float(b.max())), (site.name, mine)
            tested += 1
    assert tested == 2 * 2 + 3 * 2 + 1 + 2 * 3


def output_error(one: Subject, site: AttentionSite, change: Change) -> float:
    """Squared error of what the site's reader gives."""
    outputs: list[list[Tensor]] = [[], []]
    layer = one.model.get_submodule(site.reader.module)
    for into, own in zip(outputs, (Change(), change), strict=True):
        with installed(one.model, own):
            hook = layer.register_forward_hook(lambda module, args, output, into=into: into.append(output))
            for images, _ in one.batches(3).iterate():
                one.answer(images=images)
            hook.remove()
    return sum((a - b).square().sum().item() for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize(("kind", "name"), [("dn_detr", "encoder.0.attn")])
def test_the_basis_beats_every_choice_of_channels_and_refits_add_to_it(kind: str, name: str) -> None:
    one = SUBJECTS[kind]
    site = one.site(name)
    given = given_by(one, site)
    errors = {}
    for scorer in ("basis", "select", "taylor", "magnitude", "random"):
        for refit in (False, True):
            cut = kind_of(site).cut(site, given, scorer, refit)
            errors[scorer, refit] = output_error(one, site, cut.change(site.full // 2, given.state))
    assert min(errors, key=errors.__getitem__) == ("basis", True), errors
    assert all(errors[scorer, True] <= errors[scorer, False] * 1.001 for scorer in ("select", "magnitude", "random"))


def test_the_closed_form_does_less_damage_than_any_other_score() -> None:
    one = SUBJECTS["dn_detr"]
    sites = one.part("encoder", "decoder")
    given, widths = given_by(one, *sites), {site.name: site.full // 2 for site in sites}
    dense, errors = one.answer(), {}
    for scorer in ("basis", "select", "taylor", "magnitude", "random"):
        slim = one.family.slim(one.model, Cutter(given, scorer).change(widths))
        errors[scorer] = (answer_errors(one.answer(slim), dense)[0] - answer_errors(dense, dense)[0]).sum().item()
    assert min(errors, key=errors.__getitem__) == "basis", errors
