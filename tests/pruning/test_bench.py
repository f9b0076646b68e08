"""What is cached of images changes how long answers take, and nothing else."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from greedyprune.answer import Answer
from greedyprune.pruning.bench import NOTHING, Activations, Room
from greedyprune.pruning.calibrate import calibrate
from greedyprune.pruning.replay import Tape
from greedyprune.pruning.transplant import shape_change
from greedyprune.sites import Change, installed

from ..helpers.engine import (
    EVERY_KIND,
    GRID,
    PLENTY,
    Batches,
    Subject,
    bits,
    farthest,
    same_bits,
    shared,
    subject,
    unchanged,
)

ROUNDING = 1e-4
SITES = {
    "dn_detr": (
        "encoder.0.attn",
        "encoder.1",
        "encoder.1.ffn",
        "queries",
        "decoder.query_scale",
        "decoder.0",
        "boxes.1",
    ),
    "deformable": ("encoder.0.attn", "encoder.1.ffn", "queries", "decoder.1", "decoder.2.cross", "boxes.0"),
    "deformable, two stages": ("encoder.0", "encoder.1.attn", "queries", "decoder.2", "boxes.1.0", "boxes.3.1"),
    GRID: ("conv1", "conv2"),
}


def change_of(one: Subject, *names: str) -> Change:
    """About half of some sites leaves."""
    sites = [site for site in one.sites if site.name in names]
    widths = {site.name: site.full // 2 // site.grain * site.grain for site in sites}
    return shape_change(sites, one.model.state_dict(), widths)


def changes_of(one: Subject, names: Sequence[str]) -> list[Change]:
    """About half of each site leaves."""
    return [change_of(one, name) for name in names]


def slim_answers(one: Subject, batches: Batches, change: Change) -> list[Answer]:
    slim = one.family.slim(one.model, change)
    return [one.answer(slim, images) for images, _ in batches.iterate()]


def answers(images: Activations, change: Change) -> list[Answer]:
    return [answer for answer, _ in images.answers(change)]


def in_order(one: Subject, names: Sequence[str], order: str) -> list[Change]:
    if order == "around a centre":
        centre = names[len(names) // 2]
        return [change_of(one, centre), *(change_of(one, centre, name) for name in names), NOTHING]
    return changes_of(one, names if order == "front to back" else names[::-1])


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("dn_detr", "back to front"),
        ("deformable", "front to back"),
        ("deformable, two stages", "around a centre"),
        (GRID, "around a centre"),
    ],
)
def test_answers_are_the_same_whatever_there_is_room_for_and_whatever_came_before(kind: str, order: str) -> None:
    one = shared(kind)
    sites = [site for site in one.sites if site.part != "backbone"]
    batches, others = one.batches(2), one.batches(1, seed=9)
    whole = one.activations(batches, sites)._room.used
    tried = in_order(one, SITES[kind], order)
    before, wanted = bits(one.model), {id(change): slim_answers(one, batches, change) for change in tried}
    found = {}
    for room in (0, whole * 3 // 4, PLENTY):
        images = one.activations(batches, sites, room)
        own = bits(images.bench.model)
        assert images.cached == (0 if not room else 1 if room < whole else 2)
        found[room] = [answers(images, change) for change in tried]
        assert unchanged(images.bench.model, own)
        assert images._room.used <= room
    # Another set of images takes what room the first one leaves, and makes way for it.
    bench, both = one.bench(batches, sites), Room(whole * 7 // 4)
    first, second = (Activations(bench, each, both, last_only=False) for each in (batches, others))
    found[-1] = []
    for change in tried:
        found[-1].append(answers(first, change))
        pairs = zip(answers(second, change), slim_answers(one, others, change), strict=True)
        assert all(farthest(*pair) < ROUNDING for pair in pairs)
        assert both.used == sum(each._held(n) for each in (first, second) for n in range(each.cached)) <= both.size
    for number, change in enumerate(tried):
        for room, given in found.items():
            for mine, plenty, slim in zip(given[number], found[PLENTY][number], wanted[id(change)], strict=True):
                assert same_bits(mine, plenty), (room, number)
                assert farthest(mine, slim) < ROUNDING, (room, number)
    assert unchanged(one.model, before)


def test_a_grid_detector_answers_to_the_bit_as_its_slim_copy() -> None:
    one = shared(GRID)
    batches = one.batches()
    images = one.activations(batches)
    assert images.origin == ("conv1", 0)
    for change in (*changes_of(one, ("conv2", "conv1", "conv2")), NOTHING):
        assert all(map(same_bits, answers(images, change), slim_answers(one, batches, change)))


@pytest.mark.parametrize("room", [0, PLENTY])
def test_changes_of_the_backbone_answer_to_rounding(room: int) -> None:
    one = shared()
    batches = one.batches(2)
    first, ffn, last = changes_of(one, ("backbone.0.conv1", "encoder.1.ffn", "backbone.5.conv1"))
    images = one.activations(batches, room=room)
    for change in (last, ffn, first | last, last | ffn, NOTHING):
        pairs = zip(answers(images, change), slim_answers(one, batches, change), strict=True)
        assert all(farthest(*pair) < ROUNDING for pair in pairs)


def test_a_change_before_the_origin_goes_through_the_images() -> None:
    one = shared()
    batches, decoder = one.batches(), [site for site in one.sites if site.name.startswith("decoder.1")]
    images = one.activations(batches, decoder)
    assert images.origin == ("transformer.decoder.layers.1", 0)
    ffn, late, backbone = changes_of(one, ("encoder.0.ffn", "decoder.1.ffn", "backbone.1.conv1"))
    for change in (late, ffn, backbone, late, ffn | late, NOTHING):
        pairs = zip(answers(images, change), slim_answers(one, batches, change), strict=True)
        assert all(farthest(*pair) < ROUNDING for pair in pairs)


@pytest.mark.parametrize("kind", ["patterns", "deformable", "dn deformable, two stages"])
def test_numbers_of_queries_are_tried_one_after_another(kind: str) -> None:
    one = shared(kind)
    batches, site = one.batches(2), one.site("queries")
    images = one.activations(batches, one.part("queries", "decoder"), last_only=True)
    for width in (4, 7, 9, 3):
        change = shape_change([site], one.model.state_dict(), {"queries": width})
        for answer, slim in zip(answers(images, change), slim_answers(one, batches, change), strict=True):
            assert answer.logits.shape[1] == width * site.copies
            assert farthest(answer, slim.last()) < ROUNDING


@pytest.mark.parametrize("kind", ["dn_detr", "deformable", "dn deformable, two stages"])
def test_layers_at_the_origin_leave_alone_and_together(kind: str) -> None:
    one = shared(kind)
    batches = one.batches(2)
    images = one.activations(batches, one.part("encoder", "layers"))
    for names in (("encoder.0", "encoder.1"), ("encoder.0",), ("encoder.1",), (), ("encoder.0", "encoder.1")):
        change = change_of(one, *names)
        pairs = zip(answers(images, change), slim_answers(one, batches, change), strict=True)
        assert all(farthest(*pair) < ROUNDING for pair in pairs), names


def try_any_changes(kind: str, number: int) -> None:
    """Changes of any sites, each made of the one before it."""
    one = shared(kind)
    batches, rng = one.batches(2), random.Random(kind)
    sites = [site for site in one.sites if site.part != "backbone"]
    whole = one.activations(batches, sites)._room.used
    images = one.activations(batches, sites, rng.choice([whole * 5 // 4, PLENTY]))
    widths: dict[str, int] = {}
    for _ in range(number):
        for site in rng.sample(sites, rng.randint(1, min(4, len(sites)))):
            widths[site.name] = rng.choice(range(site.least, site.full + 1, site.grain))
        if not any(widths.get(f"decoder.{layer}", 1) for layer in range(3)):
            widths[f"decoder.{rng.randrange(3)}"] = 1
        change = shape_change(sites, one.model.state_dict(), widths)
        for count, (answer, slim) in enumerate(
            zip(images.answers(change), slim_answers(one, batches, change), strict=False)
        ):
            assert farthest(answer[0], slim) < ROUNDING, widths
            if rng.random() < 0.2 and count == 0:
                break


@pytest.mark.parametrize("kind", ["dn_detr", "deformable encoder, level by level", "deformable, two stages", GRID])
def test_answers_are_those_of_slim_copies_for_any_sequence_of_changes(kind: str) -> None:
    try_any_changes(kind, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_answers_are_those_of_slim_copies_for_long_sequences_of_changes(kind: str) -> None:
    try_any_changes(kind, 30)


def test_a_generator_that_ends_early_leaves_the_bench_as_it_was() -> None:
    one = shared()
    batches = one.batches(3)
    images = one.activations(batches, [site for site in one.sites if site.part != "backbone"])
    before = bits(images.bench.model)
    first, second, both = changes_of(one, ("decoder.0", "decoder.2.ffn", "encoder.1.ffn"))
    for change in (first, first | second, both, second):
        for _ in images.answers(change):
            break
        assert unchanged(images.bench.model, before)
    for change in (first | second, first, second, NOTHING, both):
        pairs = zip(answers(images, change), slim_answers(one, batches, change), strict=True)
        assert all(farthest(*pair) < ROUNDING for pair in pairs)


@pytest.mark.parametrize("order", [("ffn", "gone"), ("gone", "ffn"), ("gone", "ffn", "both", "gone")])
def test_a_layer_leaves_after_its_inside_was_changed_and_comes_back(order: tuple[str, ...]) -> None:
    one = shared()
    batches = one.batches(2)
    images = one.activations(batches, one.part("encoder", "decoder", "layers"))
    ffn, gone = changes_of(one, ("decoder.1.ffn", "decoder.1"))
    changes = {"ffn": ffn, "gone": gone, "both": ffn | gone}
    for name in order:
        pairs = zip(answers(images, changes[name]), slim_answers(one, batches, changes[name]), strict=True)
        assert all(farthest(*pair) < ROUNDING for pair in pairs)


def test_passes_with_graphs_run_from_the_origin_on_whatever_was_tried_before() -> None:
    one = shared()
    images = one.activations(sites=one.part("encoder", "decoder"))
    fresh = one.activations(sites=one.part("encoder", "decoder"))
    for change in changes_of(one, ("decoder.2.ffn",)):
        answers(images, change)
    heard = {}
    for each in (images, fresh):
        names: list[str] = []
        hooks = [
            module.register_forward_hook(lambda module, args, output, name=name, names=names: names.append(name))
            for name, module in each.bench.model.named_modules()
            if "layers" in name
        ]
        graphs = [(inputs, answer) for inputs, answer, _ in each.passes(graph=True)]
        assert all(answer.logits.is_leaf for _, answer in graphs)  # no parameter takes gradients here
        assert all(inputs.padding is None or inputs.padding.dtype == torch.bool for inputs, _ in graphs)
        heard[each] = names, graphs
        for hook in hooks:
            hook.remove()
    assert heard[images][0] == heard[fresh][0]
    assert "transformer.encoder.layers.0.linear1" in heard[images][0]
    assert all(same_bits(a, b) for (_, a), (_, b) in zip(heard[images][1], heard[fresh][1], strict=True))


def test_statistics_without_gradients_are_those_of_all_sites_wherever_the_cache_is() -> None:
    one = shared()
    sites = one.part("backbone")
    images, fresh = one.activations(sites=sites), one.activations(sites=sites)
    answers(images, change_of(one, sites[-1].name))
    moved, still = (calibrate(each, sites) for each in (images, fresh))
    for site in sites:
        for one_reader, other in zip(moved[site.name].readers, still[site.name].readers, strict=True):
            assert torch.equal(one_reader.rows.scatter, other.rows.scatter)
            assert one_reader.rows.weight == other.rows.weight > 0


def test_tapes_are_those_of_all_images_whatever_is_cached() -> None:
    one = shared()
    sites = one.part("decoder")
    for count in (1, 3):
        batches = one.batches(count)
        plenty = one.activations(batches, sites)
        for room in (0, plenty._room.used * 2 // 3, PLENTY):
            images = one.activations(batches, sites, room)
            tapes, replay = list(images.tapes()), images.bench.replay(last_only=False)
            assert len(tapes) == count
            assert all(isinstance(tape, Tape) and tape.place == images.origin for tape in tapes)
            with torch.no_grad():
                pairs = zip((replay.answer(tape) for tape in tapes), answers(images, NOTHING), strict=True)
                assert all(same_bits(*pair) for pair in pairs)


class Switch(nn.Module):
    """A layer that is gone."""


def test_what_a_change_reads_more_is_kept_from_then_on_and_accounted_for() -> None:
    one = subject(GRID, widths=(24, 24))
    batches = one.batches(3)
    one.model.extra = nn.Identity()
    one.model.__class__ = type("Branching", (type(one.model),), {"forward": branching})
    images = one.activations(batches, [one.site("conv2")], last_only=True)
    gone = Change(settings={("", "extra"): Switch()})
    late = changes_of(one, ("conv2",))[0]
    bench, sizes = images.bench, images._room.used
    # The bench does not know that what stands for `extra` is read late, as a head's number of layers may be.
    bench._begins["extra"] = "head"
    for change in (late, gone, late, NOTHING, gone):
        for answer, _ in images.answers(change):
            assert same_bits(answer, slim_answers(one, batches, change)[0])
            break
    for change in (gone, late, NOTHING, gone):
        assert all(map(same_bits, answers(images, change), slim_answers(one, batches, change)))
    assert images._room.used == sum(images._held(n) for n in range(images.cached)) > sizes
    while images.cached:
        images.drop()
    assert images._room.used == 0


def branching(self: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The grid detector's forward, in which a layer may be skipped."""
    first = self.conv1(images).relu()
    second = self.conv2(first).relu()
    found = self.head(first[:, :, ::4, ::4] if isinstance(self.extra, Switch) else second).flatten(2).mT
    return found[..., :-4], found[..., -4:].sigmoid()


def test_the_bench_is_a_copy_that_is_as_it_was_between_changes() -> None:
    one = shared()
    bench = one.bench()
    before, model = bits(bench.model), bench.model
    assert model is not one.model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for change in changes_of(one, ("decoder.1", "encoder.0.attn", "queries", "boxes.0")):
        with pytest.raises(KeyError), installed(model, change):
            raise KeyError
        assert unchanged(model, before)
    assert all(bench.state[name] is not one.model.state_dict()[name] for name in before)
    assert all(torch.equal(bench.state[name], tensor) for name, tensor in before.items())
    assert bench.felt(NOTHING) == ("", 0)


def test_what_is_mended_by_itself_lies_before_what_is_mended_in_order() -> None:
    one = shared()
    everything = one.bench()
    assert everything.origin == ("backbone.0.body.layer1.0.conv1", 0)
    assert everything.mended_from == ("transformer.encoder.query_scale.layers.0", 0)
    assert one.bench(sites=one.part("decoder")).mended_from == ("transformer.encoder.layers.0.self_attn", 0)
    grid = shared(GRID).bench()
    assert grid.mended_from == grid.origin == ("conv1", 0)
