"""What the family says of a detector is what its forward pass does."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from greedyprune import UserError
from greedyprune.families import family_of
from greedyprune.pruning.calls import heard
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.marked import Call
from greedyprune.pruning.replay import Tape
from greedyprune.pruning.transplant import kept_change
from greedyprune.pruning.tree import tensors_in
from greedyprune.sites import AttentionSite, Change, CountSite, HiddenSite, Site, installed

from ..helpers.detectors import KINDS
from ..helpers.engine import Subject, farthest, shared

SUBJECTS = {kind: shared(kind) for kind in KINDS}
by_kind = pytest.mark.parametrize("kind", KINDS)


def outputs(one: Subject, model: nn.Module, change: Change) -> dict[Call, list[Tensor]]:
    """What every call of a submodule gives."""
    seen: dict[Call, list[Tensor]] = {}
    with installed(model, change), heard(model, ended=lambda call, output: seen.setdefault(call, tensors_in(output))):
        one.answer(model, one.images[:1])
    return seen


def smaller(site: Site) -> tuple[int, ...]:
    kind = kind_of(site)
    if isinstance(site, AttentionSite):
        return kind.first(site, site.grain)
    return tuple(range(site.least if site.least == 0 else max(1, site.full // 3)))


def check_places(one: Subject, sites: Sequence[Site]) -> None:
    bench, last = one.bench(), None
    inputs = one.family.inputs(bench.model, one.images[:1])
    for number, site in enumerate(sites):
        change = kept_change(one.sites, bench.state, {site.name: smaller(site)})
        place = bench.felt(change)
        replay = bench.replay(last_only=number % 2 == 1)
        # What comes before the place was made by the dense detector.
        tape = replay.forwarded(Tape.of_inputs(inputs), place)
        with installed(bench.model, change), torch.no_grad():
            assert farthest(replay.answer(tape), replay.forward(inputs)) == 0, site.name
        # Sites come in the order in which an image meets them.
        assert last is None or site.part in ("heads", "queries") or not bench.before(place, last), site.name
        last = last if site.part in ("heads", "queries") else place


@by_kind
def test_every_change_of_a_site_is_felt_at_its_place_and_not_before(kind: str) -> None:
    one = SUBJECTS[kind]
    check_places(one, [site for n, site in enumerate(one.sites) if isinstance(site, CountSite) or n % 5 == 0])


@pytest.mark.slow
@by_kind
def test_every_change_of_every_site_is_felt_at_its_place_and_not_before(kind: str) -> None:
    check_places(SUBJECTS[kind], SUBJECTS[kind].sites)


@by_kind
def test_sites_are_of_every_part_and_hold_every_channel_of_their_tensors(kind: str) -> None:
    one = SUBJECTS[kind]
    state, sites = one.model.state_dict(), one.sites
    names = [site.name for site in sites]
    assert len(set(names)) == len(names)
    assert {site.part for site in sites} == set(one.family.parts)
    layers = {site.name for site in sites if isinstance(site, CountSite) and site.skips}
    for site in sites:
        assert site.inside == "" or site.inside in layers
        assert site.full % site.grain == site.step % site.grain == site.least % site.grain == 0
        for part in site.slices:
            rows = state[part.name].shape[part.dim] / part.blocks
            assert rows == site.full or part.roles == ("sampling",), (site.name, part.name)
            if isinstance(site, HiddenSite):
                assert {reader.weight for reader in site.readers} == {p.name for p in site.slices if p.output}
    assert sum(site.part == "backbone" for site in sites) == 6
    assert sum(isinstance(site, AttentionSite) for site in sites) == 2 + 2 * 3
    widths = one.family.layout(one.model).parse(one.family.layout(one.model).to_list({s.name: s.full for s in sites}))
    assert {name: widths[name] for name in names} == {site.name: site.full for site in sites}


@by_kind
def test_blocks_follow_each_other_and_hold_all_parameters_of_their_layers(kind: str) -> None:
    one = SUBJECTS[kind]
    blocks = one.family.blocks(one.model)
    bench = one.bench()
    chained = [block for block in blocks if block.chained]
    # Two decoders whose queries are ranked for each image are not given the same ones.
    ranked = one.answer().ranked
    assert len(chained) == 2 * (2 + (0 if ranked else 3))
    order = list(outputs(one, one.model, Change()))  # a module's call ends after those inside it
    ends = [order.index((block.ends, 0)) for block in chained]
    assert ends == sorted(ends)
    layers = [name for name, _ in one.model.named_modules() if name.rpartition(".")[0].endswith("coder.layers")]
    for layer in layers:
        if ranked and ".decoder." in layer:
            continue
        own = [block for block in chained if block.learns[0].startswith(f"{layer}.")]
        learned = [id(p) for block in own for name in block.learns for p in one.model.get_submodule(name).parameters()]
        assert sorted(learned) == sorted(map(id, one.model.get_submodule(layer).parameters()))
    for block in blocks:
        assert block.chained or block.learns == (block.ends,)
        # What a block learns has a say in what it is held to.
        assert order.index(bench.place(set(block.learns))) <= order.index((block.ends, 0))
    assert [name for name in one.family.hints(one.model) if (name, 0) not in order] == []


@by_kind
def test_what_is_shown_of_an_output_is_what_is_image(kind: str) -> None:
    one = SUBJECTS[kind]
    inputs = one.family.inputs(one.model, one.images)
    features = one.model.features(inputs)
    tokens = features.shown[:, 0, 0] if features.levels is None else features.levels.shown
    assert not tokens.all()
    assert tokens.any(1).all()

    def shown(module: str, output: Tensor, given=inputs) -> Tensor | None:
        return one.family.shown(one.model, given, module, output)

    encoder = torch.zeros(2, features.tokens.shape[1], 32)
    assert torch.equal(shown("transformer.encoder.layers.1.linear2", encoder), tokens)
    assert torch.equal(shown("transformer.encoder", encoder), tokens)
    queries = torch.zeros(2, 9, 32)
    assert shown("transformer.decoder.layers.1.linear2", queries) is None
    assert shown("transformer.decoder.bbox_embed.layers.1", queries) is None
    if "two stages" in kind:
        assert torch.equal(shown("transformer.decoder.bbox_embed.3.layers.1", encoder), tokens)
        assert shown("transformer.decoder.bbox_embed.2.layers.1", queries) is None
    cells = shown("backbone.0.body.layer2.0.conv2", torch.zeros(2, 96, 8, 12))
    assert cells[0].all()
    assert cells[1, :6, :10].all()
    assert cells[1].sum() == 6 * 10
    alone = one.family.inputs(one.model, one.images[:1])
    assert shown("transformer.encoder", encoder[:1], alone) is None


def test_the_folded_form_is_called_as_the_model_is_and_answers_as_it_does_to_rounding() -> None:
    one = SUBJECTS["dn_detr"]
    folded = one.family.folded(one.model)
    assert list(outputs(one, folded, Change())) == list(outputs(one, one.model, Change()))
    assert (one.answer(folded).logits - one.answer().logits).abs().max() < 1e-4


def test_a_model_of_no_family_is_refused() -> None:
    assert family_of(SUBJECTS["dn_detr"].model).name == "DETR"
    with pytest.raises(UserError, match=r"Linear is of no family that is known here \(.*DETR.*\); describe it"):
        family_of(nn.Linear(2, 2))
