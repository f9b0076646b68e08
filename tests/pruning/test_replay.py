"""From every call of a pass as a place, a detector answers from the tape what it answers from the images."""

import pytest
import torch
from torch import Tensor

from greedyprune.pruning.calls import Order
from greedyprune.pruning.marked import Hollow, Missing
from greedyprune.pruning.replay import INPUTS, Replay, Tape
from greedyprune.pruning.tree import tensors_in

from ..helpers.engine import EVERY_KIND, GRID, Subject, same_bits, shared


def replayed(one: Subject, last_only: bool = False) -> Replay:
    return Replay(one.model, lambda inputs: one.family.answer(one.model, inputs, last_only))


def tape_of(one: Subject, images=None) -> Tape:
    return Tape.of_inputs(one.family.inputs(one.model, one.images if images is None else images))


def compare_places(one: Subject, every: int, first: int = 0) -> None:
    """Of every second place the tape holds the call itself, too."""
    replay, padded = replayed(one), tape_of(one)
    order = Order(one.model, replay.forward, padded.values[INPUTS])
    batches = [one.images, [image.flip(2) for image in one.images], [one.images[0]]]
    places = list(order.starts)[first::every]
    starts = [tape_of(one, images) for images in batches]
    wanted = [one.answer(images=images) for images in batches]
    with torch.no_grad():
        for number, place in enumerate(places):
            # A second batch of the same kind goes the way that the first one made known.
            for start, answer in list(zip(starts, wanted, strict=True))[: 1 if number % 4 else 3]:
                tape = replay.forwarded(start, place, after=number % 2 == 1)
                assert same_bits(replay.answer(tape), answer), place
                if number % 4 == 0:
                    assert same_bits(replay.answer(tape), answer), place


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_answers_from_a_tape_are_those_from_the_images_to_the_bit(kind: str) -> None:
    compare_places(shared(kind), every=1 if kind == GRID else 40, first=7 * EVERY_KIND.index(kind) % 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_answers_from_many_places_are_those_from_the_images_to_the_bit(kind: str) -> None:
    compare_places(shared(kind), every=3, first=1)


@pytest.mark.parametrize("kind", ["dn_detr", "deformable, two stages", GRID])
def test_a_tape_is_forwarded_from_place_to_place_and_answers_the_last_layer_alone_too(kind: str) -> None:
    one = shared(kind)
    for last_only in (False, True):
        replay, tape = replayed(one, last_only), tape_of(one)
        with torch.no_grad():
            wanted = replay.forward(tape.values[INPUTS])
            order = Order(one.model, replay.forward, tape.values[INPUTS])
            for place in list(order.starts)[:: 1 if kind == GRID else 23]:
                tape = replay.forwarded(tape, place)
                assert tape.place == place
                assert same_bits(replay.answer(tape), wanted)


def test_a_tape_keeps_only_what_the_rest_of_the_pass_reads() -> None:
    one = shared()
    replay, start = replayed(one), tape_of(one)
    tape = replay.forwarded(start, ("transformer.encoder.layers.0", 0))
    kept = {call: value for call, value in tape.values.items() if tensors_in(value)}
    # Where the image is comes from the padding, pixels and feature maps are read no more.
    assert isinstance(tape.values[INPUTS].tensors, Hollow)
    assert isinstance(tape.values[INPUTS].padding, Tensor)
    assert not any("backbone" in name for name, _ in kept)
    decoder = replay.forwarded(start, ("transformer.decoder.layers.2", 0))
    sizes = {call: sum(t.numel() for t in tensors_in(value)) for call, value in decoder.values.items()}
    assert sizes["transformer.encoder", 0] == 2 * 24 * 32
    assert sizes["transformer.decoder.layers.1", 0] == 2 * 9 * 32
    assert decoder.size < start.size / 3
    whole = replay.forwarded(start, ("backbone", 0))
    assert whole.size >= 4 * 2 * 3 * 64 * 96


def test_a_hollow_tensor_that_something_reads_is_told_and_from_then_on_kept() -> None:
    one = shared(GRID)
    replay = replayed(one)
    tape = replay.forwarded(tape_of(one), ("head", 0))
    assert isinstance(tape.values["conv1", 0], Hollow)

    def greedy(inputs: Tensor) -> Tensor:
        first = one.model.conv1(inputs)
        return one.model.head(one.model.conv2(first.relu()).relu()).sum() + first.sum()

    with pytest.raises(Missing) as caught, torch.no_grad():
        Replay(one.model, greedy).answer(tape)
    assert caught.value.leaves == {(("conv1", 0), 0)}
    replay.demand(caught.value)
    assert isinstance(replay.forwarded(tape_of(one), ("head", 0)).values["conv1", 0], Tensor)


def test_the_output_of_a_call_has_its_graph_and_ends_the_pass() -> None:
    one = shared()
    replay = replayed(one)
    tape = replay.forwarded(tape_of(one), ("transformer.encoder.layers.1", 0))
    heard: list[str] = []
    end = ("transformer.encoder.layers.1.norm1", 0)
    output = replay.output(tape, end)
    assert output.requires_grad
    with torch.no_grad():
        replay.answer(
            tape, lambda call, value: heard.append(call[0]) if call == end and torch.equal(value, output) else None
        )
    assert heard == [end[0]]
    with pytest.raises(RuntimeError, match="no call"):
        replay.output(tape, ("transformer.encoder.layers.1.norm1", 1))
    with pytest.raises(RuntimeError, match="no call"):
        replay.forwarded(tape, ("transformer.decoder.layers.3", 0))


def test_nothing_stays_on_the_model() -> None:
    one = shared()
    replay = replayed(one)
    before = {name: dict(module.__dict__) for name, module in one.model.named_modules()}
    tape = replay.forwarded(tape_of(one), ("transformer.decoder", 0))
    with torch.no_grad():
        replay.answer(tape)
    assert all(module.__dict__.keys() == before[name].keys() for name, module in one.model.named_modules())
