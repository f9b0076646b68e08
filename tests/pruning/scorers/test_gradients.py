"""`sensitivity` and `sensitivity_weight` are means of |g| and |w g|; without labels the dense answer is the truth."""

import pytest
import torch
from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.pruning import scorers
from greedyprune.pruning.labels import gradients_of
from greedyprune.pruning.scorers import gradients
from greedyprune.pruning.scorers.filters import ordered, tensor_of_units

from ...helpers.engine import GRID, Subject, subject


def by_hand(one: Subject, batches: list, weighted: bool, labelled: bool) -> dict[str, Tensor]:
    """Scores from a plain backward pass through the whole model."""
    model = one.model
    gradients_at = gradients_of(one.family, model, "it", labelled)
    model.requires_grad_(True)
    sums = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    for images, targets in batches:
        answer = one.family.answer(model, one.family.inputs(model, images))
        for pulls in gradients_at(answer, targets, list(model.parameters())):
            for (name, each), gradient in zip(model.named_parameters(), pulls, strict=True):
                sums[name] += (each.detach() * gradient).abs() if weighted else gradient.abs()
    model.requires_grad_(False)
    scores = {}
    for site in scorers.given(one.activations(one.batches(1)), one.sites).channel_sites:
        writers = [part for part in site.slices if part.name in sums and part.roles not in (("output",), ("sampling",))]
        rows = [tensor_of_units(site, part, sums[part.name]) for part in writers]
        scores[site.name] = torch.cat(rows, 1).mean(1)
    return scores


@pytest.mark.parametrize(
    ("kind", "weighted", "labelled"),
    [("dn_detr", True, True), ("deformable, two stages", False, True), ("dn_detr", False, False)],
)
def test_scores_are_those_of_a_plain_backward_pass(
    kind: str, weighted: bool, labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(kind)
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(
        gradients, "ordered", lambda site, scores: (seen.update({site.name: scores}), ordered(site, scores))[1]
    )
    batches = one.batches(2)
    name = f"sensitivity{'_weight' if weighted else ''}{'' if labelled else '_unlabelled'}"
    given = scorers.given(one.activations(batches), one.sites)
    orders = {site.name: given.order(site, name) for site in given.channel_sites}
    expected = by_hand(one, list(batches.batches), weighted, labelled)
    assert seen.keys() == orders.keys() == expected.keys()
    for each, scores in expected.items():
        assert torch.allclose(seen[each].float(), scores, rtol=1e-2, atol=1e-3 * float(scores.max())), each
    assert not any(parameter.requires_grad for parameter in given.bench.model.parameters())


def test_without_labels_gradients_are_of_projections_whose_mean_square_is_the_curvature() -> None:
    """Of a single weight that adds to one logit the mean square is the chance times its complement."""
    one = subject(GRID)
    batches = one.batches(40)
    bias = torch.zeros(4, requires_grad=True)
    found, curvature = [], []
    for seed, (images, _) in enumerate(batches.batches):
        plain = one.answer(images=images[:1])
        answer = Answer(plain.logits[:, :1, :] + bias, plain.boxes[:, :1], plain.link)
        chances = plain.logits[0, 0].softmax(-1)
        for pulls in gradients_of(one.family, one.model, "it", False, seed)(answer, [], [bias]):
            found.append(pulls[0].square())
            curvature.append(chances * (1 - chances))
    ratio = torch.stack(found).mean(0) / torch.stack(curvature).mean(0)
    assert torch.allclose(ratio, torch.ones(4), atol=0.5)


def test_labels_are_not_read_where_the_answers_are_the_truth() -> None:
    one = subject("dn_detr")
    batches = one.batches(1)
    images, targets = batches.batches[0]
    moved = [{**each, "labels": each["labels"] * 0, "boxes": each["boxes"] * 0.5} for each in targets]
    others = type(batches)((images, moved))
    for name, same in (("taylor_unlabelled", True), ("sensitivity_unlabelled", True), ("taylor", False)):
        first, second = (scorers.given(one.activations(each), one.sites) for each in (batches, others))
        pairs = [(first.order(site, name), second.order(site, name)) for site in first.channel_sites]
        assert all(torch.equal(*pair) for pair in pairs) == same, name
