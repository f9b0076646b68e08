import pytest
import torch

from greedyprune import build_model
from greedyprune.models import Denoising, ImageBatch
from greedyprune.models.denoising import denoising_queries
from greedyprune.models.features import Queries

CLASSES, QUERIES, DIM = 6, 7, 32
NONE = Denoising(scalar=3, label_noise_scale=0.0, box_noise_scale=0.0)


def targets(*counts):
    return [
        {
            "labels": torch.randint(0, CLASSES, (count,)),
            "boxes": torch.cat([torch.rand(count, 2) * 0.4 + 0.3, torch.rand(count, 2) * 0.3 + 0.1], dim=1),
        }
        for count in counts
    ]


def label_enc():
    return torch.nn.Embedding(CLASSES + 1, DIM - 1)


def detector():
    model = build_model(
        "dn_detr",
        num_classes=CLASSES,
        backbone="small",
        hidden_dim=DIM,
        heads=4,
        enc_layers=1,
        dec_layers=2,
        ffn_dim=48,
        num_queries=QUERIES,
        freeze_norm=True,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.train()


def test_each_group_holds_every_target_once():
    wanted, table = targets(2, 0, 3), label_enc()
    made = denoising_queries(wanted, NONE, table, CLASSES, QUERIES)
    assert made.content.shape == (3, 9, DIM)  # 3 groups as wide as the fullest image
    assert made.groups == 3
    used = torch.zeros(3, 9, dtype=torch.bool)
    for group in range(3):
        for image, target in enumerate(wanted):
            for i, (label, box) in enumerate(zip(target["labels"], target["boxes"], strict=True)):
                place = 3 * group + i
                used[image, place] = True
                assert torch.equal(made.content[image, place, :-1], table.weight[label])
                assert made.content[image, place, -1] == 1
                torch.testing.assert_close(made.reference[image, place], box)
    assert (made.content[~used] == 0).all()
    assert (made.reference[~used] == 0.5).all()
    places = torch.zeros_like(used)
    places[made.image, made.query] = True
    assert torch.equal(places, used)
    for image, query, label, box in zip(made.image, made.query, made.labels, made.boxes, strict=True):
        assert label == wanted[image]["labels"][query % 3]
        assert torch.equal(box, wanted[image]["boxes"][query % 3])


def test_no_target_or_no_group_makes_no_query():
    assert denoising_queries(targets(0, 0), NONE, label_enc(), CLASSES, QUERIES) is None
    assert denoising_queries(targets(2), Denoising(scalar=0), label_enc(), CLASSES, QUERIES) is None


@pytest.mark.parametrize("scale", [0.2, 0.4, 1.0])
def test_box_noise_stays_within_its_scale_and_fills_it(scale):
    wanted = targets(20)
    settings = Denoising(scalar=100, label_noise_scale=0.0, box_noise_scale=scale)
    made = denoising_queries(wanted, settings, label_enc(), CLASSES, QUERIES)
    noised = made.reference[made.image, made.query]
    reach = torch.cat([made.boxes[:, 2:] / 2, made.boxes[:, 2:]], dim=1) * scale
    moved = (noised - made.boxes) / reach
    inside = noised > 0.002  # the smallest sizes are lifted to 1e-3
    assert (moved.abs()[inside] <= 1 + 1e-4).all()
    assert moved.max() > 0.99
    assert moved.min() < -0.9
    assert moved[inside].mean().abs() < 0.05
    assert ((noised > 0) & (noised < 1)).all()


@pytest.mark.parametrize("scale", [0.0, 0.2, 1.0])
def test_label_noise_replaces_the_told_share_by_random_labels(scale):
    wanted, table = targets(50), label_enc()
    settings = Denoising(scalar=100, label_noise_scale=scale, box_noise_scale=0.0)
    made = denoising_queries(wanted, settings, table, CLASSES, QUERIES)
    content = made.content[made.image, made.query, :-1]
    shown = torch.cdist(content, table.weight).argmin(dim=1)
    assert (shown < CLASSES).all()  # never the row of "unknown"
    kept = (shown == made.labels).float().mean().item()
    assert kept == pytest.approx(1 - scale + scale / CLASSES, abs=0.03 if scale else 0)
    assert torch.equal(made.labels[:50], wanted[0]["labels"])  # what is to be predicted stays


def test_who_sees_whom():
    made = denoising_queries(targets(2, 3), NONE, label_enc(), CLASSES, QUERIES)
    for query in range(9 + QUERIES):
        for key in range(9 + QUERIES):
            sees = key >= 9 or (query < 9 and query // 3 == key // 3)
            assert made.self_shown[query, key] == sees


def test_denoising_queries_change_no_matching_output():
    model, images, wanted = detector(), torch.randn(2, 3, 64, 64), targets(2, 3)
    with torch.no_grad():
        without = model.detect(model.features(ImageBatch(images, None)))
        beside = model(images, wanted, Denoising(scalar=4))
    assert beside.denoising.logits.shape == (2, 2, 12, CLASSES)
    for stage, other in zip([*without.earlier, without], [*beside.earlier, beside], strict=True):
        torch.testing.assert_close(stage.logits, other.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stage.boxes, other.boxes, rtol=1e-4, atol=1e-5)


def test_a_change_in_one_group_reaches_that_group_alone():
    model = detector()
    features = model.features(ImageBatch(torch.randn(2, 3, 64, 64), None))
    made = denoising_queries(targets(2, 3), NONE, model.label_enc, CLASSES, QUERIES)
    queries = model.queries(features, torch.empty(2, 0))
    content = torch.cat([made.content, queries.content], dim=1)
    reference = torch.cat([made.reference, queries.reference], dim=1)

    def hidden(changed):
        moved = content.clone()
        moved[:, changed] += torch.randn(moved[:, changed].shape)
        asked = Queries(moved, reference, self_shown=made.self_shown)
        with torch.no_grad():
            _, decoded = model.transformer(features, lambda memory: asked)
        return torch.stack([layer.states for layer in decoded])

    before = hidden(slice(0, 0))
    for group in range(3):
        own = torch.zeros(9 + QUERIES, dtype=torch.bool)
        own[3 * group : 3 * group + 3] = True
        after = hidden(own)
        torch.testing.assert_close(after[:, :, ~own], before[:, :, ~own], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(after[:, :, own], before[:, :, own], atol=1e-2)
    matching = torch.arange(9 + QUERIES) >= 9
    assert not torch.allclose(hidden(matching)[:, :, :9], before[:, :, :9], atol=1e-2)  # groups see these


def test_eval_mode_and_missing_targets_have_no_denoising():
    model, images = detector(), torch.randn(1, 3, 64, 64)
    assert model(images, targets(2)).denoising is not None
    assert model(images).denoising is None
    assert model(images, targets(0)).denoising is None
    assert model.eval()(images, targets(2)).denoising is None
