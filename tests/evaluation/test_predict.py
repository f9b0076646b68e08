import pytest
import torch

from greedyprune import UserError, build_model
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.predict import predict_detections
from greedyprune.families import family_of
from greedyprune.models import ModelInfo

IDS = (3, 7, 40)
INFO = ModelInfo(("a", "b", "c"), IDS, 32, 64)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    options = {"num_classes": 3, "hidden_dim": 16, "heads": 2, "enc_layers": 1, "dec_layers": 1, "ffn_dim": 8}
    return build_model("dn_detr", info=INFO, num_queries=6, backbone="small", **options)


@pytest.fixture(scope="module")
def loader():
    torch.manual_seed(1)
    shapes = [[(32, 48), (32, 32)], [(64, 32)]]
    return [
        (
            [torch.randn(3, *shape) for shape in batch],
            [{"image_id": 10 * number + place, "size": torch.tensor([60 + place, 90])} for place in range(len(batch))],
        )
        for number, batch in enumerate(shapes)
    ]


def found(model, loader, **how):
    return predict_detections(family_of(model), model, loader, **{"category_ids": IDS, **how})


def test_rows_hold_what_the_family_finds_in_the_data_sets_own_ids(model, loader):
    rows = found(model, loader, top_k=5).rows()
    assert [row["image_id"] for row in rows] == [0] * 5 + [1] * 5 + [10] * 5
    family = family_of(model)
    images, targets = loader[0]
    with torch.no_grad():
        answer = family.answer(model.eval(), family.inputs(model, images))
        results = family.detections(model, answer, torch.stack([target["size"] for target in targets]), 5)
    for row, score, label, box in zip(rows[5:10], *(results[1][k] for k in ("scores", "labels", "boxes")), strict=True):
        x0, y0, x1, y1 = box.tolist()
        assert row["score"] == score.item()
        assert row["category_id"] == IDS[label]
        assert row["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-4)


def test_labels_are_the_category_ids_of_a_model_that_has_none(loader):
    results = [{"scores": torch.tensor([0.5]), "labels": torch.tensor([17]), "boxes": torch.tensor([[1.0, 2, 4, 8]])}]
    row = {"image_id": 4, "category_id": 17, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    assert Detections.from_results(results, [4]).rows() == [row]


def test_detections_of_labels_that_the_data_lack_are_left_out(model, loader):
    every = found(model, loader, top_k=18)
    some = found(model, loader, top_k=18, category_ids=(5, None, 0))
    kept = every.category_ids != 7
    assert 0 < kept.sum() < len(every)
    assert (some.scores == every.scores[kept]).all()
    assert (some.boxes == every.boxes[kept]).all()
    assert some.category_ids.tolist() == [{3: 5, 40: 0}[each] for each in every.category_ids[kept].tolist()]


def test_the_models_mode_is_what_it_was(model, loader):
    model.train()
    found(model, loader)
    assert model.training


def test_mixed_precision_gives_nearly_the_same_scores(model, loader):
    exact = found(model, loader, top_k=18)
    mixed = found(model, loader, top_k=18, amp="bf16")
    assert mixed.scores != pytest.approx(exact.scores, abs=1e-9)
    assert mixed.scores == pytest.approx(exact.scores, abs=0.02)


def test_an_unknown_precision_is_refused(model, loader):
    with pytest.raises(UserError, match="--amp 'int8' is unknown"):
        found(model, loader, amp="int8")


def test_no_images_give_no_detections(model):
    assert found(model, []).rows() == []


def test_rows_and_arrays_are_the_same_detections(model, loader):
    these = found(model, loader)
    again = Detections.from_rows(these.rows())
    assert again.rows() == these.rows()
    assert Detections.concat([these[:4], these[4:]]).rows() == these.rows()
