"""A slim model without queries or layers answers as the dense one in which those have no say."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.pruning.pairing import counterpart
from greedyprune.pruning.transplant import kept_change, transplant
from greedyprune.sites.change import Pairing

from ..helpers.detectors import KINDS
from ..helpers.engine import Subject, farthest, shared

SUBJECTS = {kind: shared(kind) for kind in KINDS}


def slim_answer(one: Subject, kept: dict[str, Sequence[int]]) -> tuple[Answer, Pairing]:
    change = kept_change(one.sites, one.model.state_dict(), kept)
    return one.answer(transplant(one.family, one.model, kept)), change.pairing


@contextmanager
def only_shown(model: nn.Module, queries: Tensor) -> Iterator[None]:
    """No query of the decoder looks at any but these."""

    def hide(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        q, k, v, shown = given
        seen = torch.zeros(k.shape[2], dtype=torch.bool)
        seen[queries] = True
        return q, k, v, seen.expand(1, 1, 1, -1) if shown is None else shown & seen

    with ExitStack() as stack:
        for layer in model.transformer.decoder.layers:
            stack.callback(layer.self_attn.core.register_forward_pre_hook(hide).remove)
        yield


@contextmanager
def switched_off(model: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """Layers give what they are given, and those of the decoder move no reference."""
    numbers = [int(name.rpartition(".")[2]) for name in layers if name.startswith("decoder")]
    decoder = model.transformer.decoder
    refine = decoder.refine
    last = max(set(range(len(decoder.layers))) - set(numbers))

    def still(index: int, content: Tensor, reference: Tensor) -> Tensor:
        return reference if index in numbers and index < last else refine(index, content, reference)

    with ExitStack() as stack:
        for name in layers:
            part, number = name.split(".")
            layer = getattr(model.transformer, part).layers[int(number)]
            stack.callback(layer.register_forward_hook(lambda module, args, output: args[0]).remove)
        decoder.refine = still
        stack.callback(delattr, decoder, "refine")
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_queries_that_left_are_queries_that_no_other_looks_at(kind: str) -> None:
    one = SUBJECTS[kind]
    proposals = "two stages" in kind
    kept = range(5) if proposals else (0, 3, 4, 8)
    answer, pairing = slim_answer(one, {"queries": kept})
    copies = one.site("queries").copies
    assert copies == (2 if kind in ("patterns", "deformable encoder") else 1)
    assert pairing.queries.tolist() == [query + 9 * copy for copy in range(copies) for query in kept]
    with only_shown(one.model, pairing.queries):
        hidden = counterpart(one.answer(), pairing)
    assert farthest(answer, hidden) < 1e-5
    assert farthest(answer, counterpart(one.answer(), pairing)) > 1e-4


@pytest.mark.parametrize("kept", [(1, 3, 8), (2,), range(9)])
def test_of_proposals_it_is_the_best_that_stay_whichever_are_named(kept: Sequence[int]) -> None:
    one = SUBJECTS["deformable, two stages"]
    answer, pairing = slim_answer(one, {"queries": kept})
    assert answer.logits.shape[1] == len(kept)
    assert pairing.queries is None or pairing.queries.tolist() == list(range(len(kept)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_layer_that_left_is_one_that_gives_what_it_is_given(kind: str) -> None:
    one, gone = SUBJECTS[kind], ("encoder.1",)
    answer, pairing = slim_answer(one, dict.fromkeys(gone, ()))
    with switched_off(one.model, gone):
        assert farthest(answer, one.answer()) < 1e-5
    assert pairing == Pairing()
    assert farthest(answer, one.answer()) > 1e-4


@pytest.mark.parametrize("gone", [("decoder.2",), ("decoder.0", "decoder.1")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_layer_that_left_moves_nothing_and_answers_nothing(kind: str, gone: Sequence[str]) -> None:
    one = SUBJECTS[kind]
    answer, pairing = slim_answer(one, dict.fromkeys(gone, ()))
    with switched_off(one.model, gone):
        dense = one.answer()
    numbers = {int(name[-1]) for name in gone}
    assert pairing.gone == numbers
    *earlier, last = [layer for n, layer in enumerate((*dense.earlier, dense)) if n not in numbers]
    assert farthest(answer, Answer(last.logits, last.boxes, last.link, tuple(earlier))) < 1e-5


def test_layers_are_numbered_by_the_answers_that_a_model_still_gives() -> None:
    one = SUBJECTS["dn_detr"]
    slim = transplant(one.family, one.model, {"decoder.1": ()})
    sites = one.family.sites(slim)
    change = kept_change(sites, slim.state_dict(), {"decoder.2": ()})
    assert change.pairing.gone == {1}
    left = counterpart(one.answer(slim), change.pairing)
    assert left.earlier == ()
    answer = one.answer(transplant(one.family, slim, {"decoder.2": ()}))
    assert farthest(answer, one.answer(slim).earlier[0]) < 1e-6
    assert [site.name for site in sites if site.inside == "decoder.1" or site.name == "decoder.1"] == []


def test_queries_and_layers_leave_together_with_channels() -> None:
    one = SUBJECTS["deformable, refined"]
    kept = {
        "queries": (1, 2, 6),
        "decoder.1": (),
        "encoder.0": (),
        "decoder.1.ffn": range(7),
        "decoder.0.self": range(32),
    }
    answer, pairing = slim_answer(one, kept)
    with only_shown(one.model, pairing.queries), switched_off(one.model, ("encoder.0", "decoder.1")):
        dense = counterpart(one.answer(), pairing)
    assert farthest(answer, dense) < 1e-5
    slim = transplant(one.family, one.model, kept)
    names = slim.state_dict()
    assert not any(
        name.startswith(("transformer.decoder.layers.1.", "bbox_embed.1.", "class_embed.1.")) for name in names
    )
