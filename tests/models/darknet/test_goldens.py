"""YOLOv2 computes what the published implementation does."""

import hashlib

import pytest
import torch

from greedyprune.models.darknet.decode import decode, suppressed
from greedyprune.models.darknet.layers import MaxPool, Reorg
from greedyprune.models.darknet.region_loss import PARTS, WARM_UP, region_losses
from greedyprune.models.darknet.weights_file import write_weights

from .golden import arrays, filled, own_key, rule, said, targets_of

OUTPUT = {"rtol": 1e-3, "atol": 1e-4}
LOSS = {"rel": 1e-3, "abs": 1e-6}


@pytest.fixture(scope="module")
def golden():
    return said("yolov2_voc"), arrays("yolov2_voc")


@pytest.fixture(scope="module")
def model():
    return filled()


@pytest.fixture
def images(golden):
    about = golden[0]
    return torch.stack([torch.from_numpy(each) for each in rule().images(about["sizes"], about["image_seed"])])


def batch_targets(about):
    found = rule().targets(about["target_seed"], about["target_counts"], about["target_classes"])
    return [
        {"labels": torch.from_numpy(each["labels"]) - 1, "boxes": torch.from_numpy(each["boxes"])} for each in found
    ]


def assert_parts(losses, wanted):
    found = {part: float(losses[part].detach()) for part in PARTS}
    assert found == pytest.approx({part: wanted[part] for part in PARTS}, **LOSS)


@pytest.mark.parametrize("order", ["plain", "darknet"])
def test_reorg_gives_both_orders_of_channels(order):
    found = arrays("reorg")
    assert torch.equal(Reorg(2, order)(found["x"]), found[order])


@pytest.mark.slow
@torch.no_grad()
def test_the_network_answers_as_the_published_one(golden, model, images):
    about, wanted = golden
    assert sum(parameter.numel() for parameter in model.parameters()) == about["parameters"] == 50_655_389
    torch.testing.assert_close(model(images), wanted["output"], **OUTPUT)
    [square] = rule().images([[416, 416]], about["image_seed_416"])
    torch.testing.assert_close(model(torch.from_numpy(square)[None]), wanted["output_416"], **OUTPUT)


@pytest.mark.slow
def test_gradients_of_the_loss_are_the_published_ones_while_training(golden, images):
    about, wanted = golden
    model = filled().train()
    output = model(images)
    torch.testing.assert_close(output.detach(), wanted["train_output"], **OUTPUT)
    answer = decode(output, model.anchors)
    named = dict(model.named_parameters())

    for seen, norms in about["grad_norms"].items():
        model.zero_grad()
        losses = region_losses(answer.raw, batch_targets(about), model.anchors, model.region, int(seen) < WARM_UP)
        assert_parts(losses, about["losses"][seen])
        sum(losses.values()).backward(retain_graph=True)
        found = {key: float(named[own_key(model, key)].grad.norm()) for key in norms}
        assert found == pytest.approx(norms, rel=1e-3)


def test_losses_of_the_published_output(golden, model):
    about, wanted = golden
    answer = decode(wanted["output"], model.anchors)
    for seen, parts in about["eval_losses"].items():
        losses = region_losses(answer.raw, batch_targets(about), model.anchors, model.region, int(seen) < WARM_UP)
        assert_parts(losses, parts)
        assert float(sum(losses.values())) == pytest.approx(parts["total"], **LOSS)


@pytest.mark.parametrize("seen", ["12799", "12800"])
def test_the_loss_of_hard_cases_has_the_published_gradient(model, seen):
    about, found = said("region_loss"), arrays("region_loss")
    output = found["raw"].requires_grad_()
    raw = decode(output, model.anchors).raw
    losses = region_losses(raw, targets_of(found["target"]), model.anchors, model.region, int(seen) < WARM_UP)
    wanted = about["cases"][seen]
    assert_parts(losses, wanted)
    [gradient] = torch.autograd.grad(sum(losses.values()), output)
    torch.testing.assert_close(gradient, found[f"grad_{seen}"], rtol=1e-3, atol=1e-5)


def test_images_without_objects_have_the_loss_of_their_objectness_alone(model):
    raw = torch.zeros(2, 5, 25, 3, 4)
    none = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    losses = region_losses(raw, [none, none], model.anchors, model.region, warming=False)
    assert float(losses["conf"]) == pytest.approx(raw[:, :, 0].numel() / 8)
    assert all(float(losses[part]) == 0 for part in PARTS if part != "conf")


def test_detections_of_the_published_output(golden, model):
    about, wanted = golden
    answer = decode(wanted["output"], model.anchors)
    sizes = torch.tensor([about["original_size"]] * 2)
    found = suppressed(answer, sizes, 1000, about["conf_thresh"], about["nms_thresh"], per_class=False)
    for image, each in enumerate(found):
        rows = wanted[f"detections_{image}"]  # class, score, x1, y1, x2, y2
        rows = rows[rows[:, 1].argsort(descending=True)]
        torch.testing.assert_close(each["scores"], rows[:, 1], rtol=1e-5, atol=1e-6)
        assert torch.equal(each["labels"], rows[:, 0].long())
        torch.testing.assert_close(each["boxes"], rows[:, 2:], rtol=0, atol=1e-3)


def test_boxes_and_chances_of_the_published_output(golden, model):
    about, wanted = golden
    answer = decode(wanted["output"], model.anchors)
    chances, objectness = answer.link.chances(answer.logits), answer.logits[..., 0].sigmoid()
    for image in range(2):
        passing = chances[image].amax(-1) > about["conf_thresh"]
        rows = wanted[f"boxes_{image}"]  # cx, cy, w, h, objectness, best class probability, class
        torch.testing.assert_close(answer.boxes[image][passing], rows[:, :4], rtol=0, atol=1e-5)
        torch.testing.assert_close(objectness[image][passing], rows[:, 4], rtol=0, atol=1e-5)
        assert torch.equal(chances[image][passing].argmax(-1), rows[:, 6].long())


@pytest.mark.slow
def test_the_weights_file_is_the_published_one_byte_by_byte(golden, model, tmp_path):
    about = golden[0]["weights_file"]
    write_weights(model, tmp_path / "yolov2.weights", long=False)
    data = (tmp_path / "yolov2.weights").read_bytes()
    assert len(data) == about["bytes"]
    assert hashlib.sha256(data).hexdigest() == about["sha256"]


@pytest.mark.parametrize(
    ("size", "stride", "given", "wanted"), [(2, 2, 6, 3), (2, 1, 5, 5), (3, 1, 4, 4), (3, 2, 8, 4)]
)
def test_pools_keep_or_divide_the_size_and_the_border_never_wins(size, stride, given, wanted):
    x = -1 - torch.rand(1, 2, given, given)
    found = MaxPool(size, stride)(x)
    assert found.shape[-1] == wanted
    assert float(found.max()) < -1


def test_the_pool_that_keeps_the_size_repeats_the_edge():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert MaxPool(2, 1)(x)[0, 0].tolist() == [[4, 5, 5], [7, 8, 8], [7, 8, 8]]
