import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from greedyprune.answer import Answer
from greedyprune.models import Criterion, Denoising, HungarianMatcher, postprocess
from greedyprune.models.answer import DenoisingAnswer, DetrAnswer
from greedyprune.models.denoising import denoising_queries

CLASSES, QUERIES = 5, 6


def made_up(counts, layers=3, denoising=None):
    targets = [{"labels": torch.randint(0, CLASSES, (n,)), "boxes": torch.rand(n, 4) * 0.5 + 0.2} for n in counts]
    *earlier, last = (
        Answer(torch.randn(len(counts), QUERIES, CLASSES), torch.rand(len(counts), QUERIES, 4)) for _ in range(layers)
    )
    answer = DetrAnswer(last.logits, last.boxes, earlier=tuple(earlier))
    if denoising:
        queries = denoising_queries(targets, denoising, torch.nn.Embedding(CLASSES + 1, 7), CLASSES, QUERIES)
        shape = (layers, *queries.content.shape[:2])
        noised = DenoisingAnswer(queries, torch.randn(*shape, CLASSES), torch.rand(*shape, 4))
        answer = replace(answer, denoising=noised)
    return answer, targets


def focal(logit, positive):
    p = 1 / (1 + math.exp(-logit))
    return 0.25 * (1 - p) ** 2 * -math.log(p) if positive else 0.75 * p**2 * -math.log(1 - p)


def pair_losses(box, target):
    """L1 of centre and of size, and 1 - generalized IoU."""
    difference = (box - target).abs()
    corners = [box_convert(b[None], "cxcywh", "xyxy") for b in (box, target)]
    return difference[:2].sum().item(), difference[2:].sum().item(), 1 - generalized_box_iou(*corners).item()


def plain_losses(answer, targets, boxes_count):
    """The losses as loops over layers, images, queries and classes."""
    layers = [*answer.earlier, answer]
    wanted = {}
    for number, layer in enumerate(layers):
        ending = "" if number == len(layers) - 1 else f"_{number}"
        match = HungarianMatcher()(layer.logits[None], layer.boxes[None], targets)
        owner = {}
        flat = [(i, t) for i, target in enumerate(targets) for t in range(len(target["labels"]))]
        for image, query, target in zip(match.image.tolist(), match.query.tolist(), match.target.tolist(), strict=True):
            owner[image, query] = flat[target][1]
        ce = xy = hw = giou = right = 0.0
        cardinality = []
        for image, target in enumerate(targets):
            answers = 0
            for query in range(QUERIES):
                logits = layer.logits[image, query]
                mine = owner.get((image, query))
                label = None if mine is None else target["labels"][mine].item()
                ce += sum(focal(logits[c].item(), c == label) for c in range(CLASSES))
                answers += logits.argmax().item() != CLASSES - 1
                if mine is not None:
                    parts = pair_losses(layer.boxes[image, query], target["boxes"][mine])
                    xy, hw, giou = xy + parts[0], hw + parts[1], giou + parts[2]
                    right += logits.argmax().item() == label
            cardinality.append(abs(answers - len(target["labels"])))
        sums = {"loss_ce": ce, "loss_bbox": xy + hw, "loss_giou": giou, "loss_xy": xy, "loss_hw": hw}
        wanted |= {name + ending: value / boxes_count for name, value in sums.items()}
        wanted[f"cardinality_error{ending}"] = sum(cardinality) / len(cardinality)
        if not ending:
            wanted["class_error"] = 100 - 100 * right / max(len(owner), 1)
    return wanted


def plain_denoising_losses(denoising, boxes_count):
    queries, layers = denoising.queries, len(denoising.logits)
    wanted = {}
    for number in range(layers):
        ending = "" if number == layers - 1 else f"_{number}"
        ce = l1 = giou = right = 0.0
        for image, query, label, box in zip(queries.image, queries.query, queries.labels, queries.boxes, strict=True):
            logits = denoising.logits[number, image, query]
            ce += sum(focal(logits[c].item(), c == label) for c in range(CLASSES))
            xy, hw, overlap = pair_losses(denoising.boxes[number, image, query], box)
            l1, giou, right = l1 + xy + hw, giou + overlap, right + (logits.argmax() == label).item()
        divisor = boxes_count * queries.groups
        sums = {"tgt_loss_ce": ce, "tgt_loss_bbox": l1, "tgt_loss_giou": giou}
        wanted |= {name + ending: value / divisor for name, value in sums.items()}
        wanted[f"tgt_class_error{ending}"] = 100 - 100 * right / len(queries.labels)
    return wanted


def numbers(losses):
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("counts", [[2, 3], [0, 4], [1], [8, 1]])
def test_losses_are_those_of_plain_loops(counts):
    answer, targets = made_up(counts)
    losses = Criterion(CLASSES)(answer, targets)
    assert numbers(losses) == pytest.approx(plain_losses(answer, targets, sum(counts)), rel=1e-4, abs=1e-4)


def test_denoising_losses_are_those_of_plain_loops():
    answer, targets = made_up([2, 0, 3], denoising=Denoising(scalar=4))
    losses = Criterion(CLASSES)(answer, targets)
    wanted = plain_losses(answer, targets, 5) | plain_denoising_losses(answer.denoising, 5)
    assert numbers(losses) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_the_divisor_can_be_given():
    answer, targets = made_up([2, 3], denoising=Denoising(scalar=2))
    criterion = Criterion(CLASSES)
    ours, given = numbers(criterion(answer, targets)), numbers(criterion(answer, targets, num_boxes=10.0))
    for name, value in ours.items():
        assert given[name] == pytest.approx(value / 2 if "loss" in name else value, rel=1e-5)


def test_the_total_is_the_weighted_sum_of_the_losses_that_count():
    answer, targets = made_up([2, 3], denoising=Denoising())
    criterion = Criterion(CLASSES, loss_ce=3.0, loss_bbox=7.0, loss_giou=11.0)
    losses = criterion(answer, targets)
    weights = criterion.weight_dict(losses)
    assert len(weights) == 2 * 3 * 3  # matching and denoising, layers, kinds
    kinds = {"loss_ce": 3.0, "loss_bbox": 7.0, "loss_giou": 11.0}
    wanted = 0.0
    for name, loss in losses.items():
        for kind, weight in kinds.items():
            if kind in name:
                assert weights[name] == weight
                wanted += weight * loss.item()
    assert criterion.total(losses).item() == pytest.approx(wanted, rel=1e-5)


def test_a_batch_without_targets_has_a_finite_loss_of_the_background_alone():
    answer, targets = made_up([0, 0])
    answer.logits.requires_grad_()
    answer.boxes.requires_grad_()
    criterion = Criterion(CLASSES)
    losses = criterion(answer, targets)
    found = numbers(losses)
    assert all(value == 0 for name, value in found.items() if name.startswith(("loss_bbox", "loss_giou")))
    assert found["loss_ce"] > 0
    assert found["class_error"] == 100
    criterion.total(losses).backward()
    assert answer.logits.grad.isfinite().all()


def test_half_precision_answer_are_judged_in_float32():
    answer, targets = made_up([2, 3])
    earlier = tuple(replace(layer, logits=layer.logits.bfloat16()) for layer in answer.earlier)
    half = replace(answer, logits=answer.logits.bfloat16(), earlier=earlier)
    losses = Criterion(CLASSES)(half, targets)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())


def test_detections_are_the_best_pairs_of_query_and_class():
    answer = Answer(torch.randn(2, QUERIES, CLASSES), torch.rand(2, QUERIES, 4))
    sizes = torch.tensor([[480, 640], [100, 50]])
    for image, found in enumerate(postprocess(answer, sizes, top_k=8)):
        logits = answer.logits[image]
        pairs = [(logits[q, c].sigmoid().item(), q, c) for q in range(QUERIES) for c in range(CLASSES)]
        height, width = sizes[image].tolist()
        for i, (score, query, label) in enumerate(sorted(pairs, reverse=True)[:8]):
            assert found["scores"][i].item() == pytest.approx(score)
            assert found["labels"][i] == label
            x, y, w, h = answer.boxes[image, query].tolist()
            corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            assert found["boxes"][i].tolist() == pytest.approx(corners, rel=1e-4, abs=1e-3)


def test_no_more_detections_are_asked_for_than_there_are():
    answer = Answer(torch.randn(1, 2, 3), torch.rand(1, 2, 4))
    (found,) = postprocess(answer, torch.tensor([[10, 10]]))
    assert len(found["scores"]) == 6
