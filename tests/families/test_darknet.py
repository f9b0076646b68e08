"""Every tool takes a Darknet detector, and says plainly what one cannot do."""

import json
import shutil

import pytest
import torch

import greedyprune
from greedyprune import UserError
from greedyprune.answer import Answer, ObjectnessSoftmax
from greedyprune.commands.eval import main as evaluate_main
from greedyprune.commands.train import main as train_main
from greedyprune.families import Asked, family_of, family_of_file, kinds
from greedyprune.image_form import Stretched
from greedyprune.models.darknet.checkpoint import save_darknet
from greedyprune.models.darknet.decode import suppressed
from greedyprune.models.darknet.weights_file import write_weights

from ..evaluation.tiny_coco import write_tiny
from ..models.darknet.small_darknet import TEXT, small_darknet

FAMILY = family_of(small_darknet())
NUMBERS = ("AP", "AP50", "AR100")
PLACE = ("--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("darknet")
    write_tiny(folder / "data", 9, "train")
    write_tiny(folder / "data", 4, "val")
    save_darknet(small_darknet(), folder / "small.safetensors")
    write_weights(small_darknet(), folder / "small.weights")
    (folder / "small.cfg").write_text(TEXT)
    (folder / "small.names").write_text("box\ndisc\n")
    return folder


def arguments(folder, resume, *more):
    return ["--resume", str(folder / resume), "--coco_path", str(folder / "data"), *PLACE, *more]


def result_of(capsys, argv):
    assert evaluate_main([*argv, "--json", "--latency_runs", "1"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_answer_says_for_every_anchor_of_every_cell_what_it_is_and_where():
    model = small_darknet()
    images = [torch.rand(3, 32, 64) for _ in range(3)]
    answer = FAMILY.answer(model, FAMILY.inputs(model, images))
    assert answer.logits.shape == (3, 4 * 8 * 2, 3)
    assert isinstance(answer.link, ObjectnessSoftmax)
    raw = model(torch.stack(images))
    row, column, anchor = 2, 5, 1
    at = (row * 8 + column) * 2 + anchor
    x, y, w, h, found, *classes = raw[1, anchor * 7 : anchor * 7 + 7, row, column]
    assert torch.allclose(answer.logits[1, at], torch.stack((found, *classes)))
    wanted = torch.stack(((x.sigmoid() + 5) / 8, (y.sigmoid() + 2) / 4, 2.5 * w.exp() / 8, 2 * h.exp() / 4))
    assert torch.allclose(answer.boxes[1, at], wanted)


def test_images_are_stretched_and_keep_their_colours(folder):
    model = small_darknet()
    form = FAMILY.form(model)
    assert (form.size, form.mean, form.std) == (Stretched(32, 64), (0, 0, 0), (1, 1, 1))
    data = greedyprune.api._data(folder / "data", "val", FAMILY, model)
    image, target = data[0]
    assert image.shape == (3, 32, 64)
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert float(image.max()) > 0.9
    assert float(target["boxes"][0, 2]) == pytest.approx(25 / 64)


def test_deployed_and_folded_answer_the_same():
    model, images = small_darknet(), torch.rand(2, 3, 64, 32)
    answer = FAMILY.answer(model, images)
    for form in (FAMILY.deployed(model), FAMILY.folded(model)):
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in form.modules())
        again = FAMILY.answer(form, images)
        torch.testing.assert_close(again.logits, answer.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.boxes, answer.boxes, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_loss_is_the_mean_over_images_and_warms_up_in_training_alone():
    model = small_darknet()
    loss = FAMILY.loss(model)
    image = torch.rand(1, 3, 32, 64)
    target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.4, 0.6, 0.2, 0.3]])}
    one, two = FAMILY.answer(model, image), FAMILY.answer(model, image.repeat(2, 1, 1, 1))
    assert float(loss(two, [target, target])) == pytest.approx(float(loss(one, [target])), rel=1e-5)
    cold = float(loss(one, [target]))
    model.train()
    assert float(loss(one, [target])) > cold
    FAMILY.saw(model, 12_800)
    assert float(loss(one, [target])) == pytest.approx(cold)


def test_the_same_weights_are_the_same_detector_in_both_kinds_of_files(folder, capsys):
    saved = result_of(capsys, arguments(folder, "small.safetensors"))
    for flags in ((), ("--cfg", str(folder / "small.cfg"), "--names", str(folder / "small.names"))):
        read = result_of(capsys, arguments(folder, "small.weights", *flags))
        assert [read[name] for name in NUMBERS] == pytest.approx([saved[name] for name in NUMBERS], abs=1e-6)
    assert (read["params"], read["image_size"]) == (sum(p.numel() for p in small_darknet().parameters()), [32, 64])


def test_thresholds_are_the_checkpoints_unless_flags_say_others(folder):
    path = folder / "small.safetensors"
    model = FAMILY.open(path, Asked(options={"score_threshold": 0.3, "nms_iou": 0.2, "per_class_nms": True}))
    assert (model.info.score_threshold, model.info.nms_iou, model.info.per_class_nms) == (0.3, 0.2, True)
    assert FAMILY.load(path).info.score_threshold == 0.005
    answer = FAMILY.answer(model, torch.rand(2, 3, 32, 64))
    found = FAMILY.detections(model, answer, torch.tensor([[48, 64]] * 2), 100)
    assert all(float(scores) > 0.3 for each in found for scores in each["scores"])
    assert all(bool((each["scores"].diff() <= 0).all()) for each in found)


def test_a_threshold_of_nothing_is_a_threshold(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(type(FAMILY), "open", lambda self, path, asked: seen.append(asked) or small_darknet())
    evaluate_main(arguments(folder, "small.safetensors", "--score_threshold", "0", "--latency_runs", "0"))
    assert seen[0].options == {"score_threshold": 0}


def test_boxes_of_one_class_leave_each_other_out_and_others_only_as_published():
    logits = torch.tensor([[[4.0, 6, 0], [3, 0, 6], [2, 6, 0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.49, 0.5, 0.2, 0.2]]])
    answer = Answer(logits, boxes, ObjectnessSoftmax())
    sizes = torch.tensor([[100, 200]])
    [published] = suppressed(answer, sizes, 9, 0.1, 0.45, per_class=False)
    [apart] = suppressed(answer, sizes, 9, 0.1, 0.45, per_class=True)
    assert published["labels"].tolist() == [0]
    assert apart["labels"].tolist() == [0, 1]
    assert torch.allclose(published["boxes"], torch.tensor([[80.0, 40, 120, 60]]))
    assert len(suppressed(answer, sizes, 1, 0.1, 0.45, per_class=True)[0]["scores"]) == 1


def test_files_are_told_apart_and_the_kind_has_a_name(folder):
    assert family_of_file(folder / "small.weights") is family_of_file(folder / "small.safetensors") is FAMILY
    assert family_of_file(folder / "none.safetensors") is not FAMILY
    assert "darknet" in kinds()
    assert "dn_detr" in kinds()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--key", "ema"), "--key says nothing of checkpoint .* which is of a Darknet detector"),
        (("--whole_heads",), "--whole_heads says nothing"),
        (("--reorg", "plain"), r"--reorg is for .weights files; checkpoint .* says it itself"),
        (("--cfg", "yolov2-voc"), "--cfg is for"),
    ],
)
def test_flags_that_say_nothing_are_refused(folder, flags, told):
    with pytest.raises(UserError, match=told):
        evaluate_main(arguments(folder, "small.safetensors", *flags))


def test_flags_of_darknet_say_nothing_of_a_detr(folder):
    with pytest.raises(UserError, match=r"--nms_iou says nothing of checkpoint .* which is of a DETR"):
        evaluate_main(["--nms_iou", "0.5", "--coco_path", str(folder / "data"), *PLACE])


def test_weights_of_other_layers_are_refused(folder):
    with pytest.raises(UserError, match=r"the layers of the cfg need 15,867,885"):
        evaluate_main(arguments(folder, "small.weights", "--cfg", "tiny-yolo-voc"))


def train(folder, out, *more):
    words = ["--coco_path", str(folder / "data"), *PLACE, "--batch_size", "4", "--output_dir", str(out), *more]
    assert train_main(words) == 0
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_new_detector_is_trained_for_the_classes_of_the_data(folder, tmp_path):
    new = ("--model", "darknet", "--cfg", str(folder / "small.cfg"), "--augment", "darknet", "--multi_scale")
    records = train(folder, tmp_path / "run", *new, "--epochs", "12", "--lr", "1e-2", "--log_every", "4")
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 0.8 * losses[0]
    model = greedyprune.load(tmp_path / "run" / "last.safetensors")
    assert (model.classes.names, model.classes.ids) == (("box", "disc"), (3, 8))
    assert int(model.seen) == 12 * 8
    assert model.info.norm_epsilon == "pytorch"


def test_sgd_on_the_sum_of_the_loss_fine_tunes_with_a_teacher(folder, tmp_path):
    sgd = ("--optimizer", "sgd", "--lr", "1e-5", "--loss_sum", "--epochs", "1", "--clip_max_norm", "0")
    source = str(folder / "small.safetensors")
    train(folder, tmp_path / "run", "--resume", source, "--teacher", source, *sgd, "--accumulate", "2")
    before, after = (greedyprune.load(path) for path in (source, tmp_path / "run" / "last.safetensors"))
    assert not torch.equal(before.convolutions[0].conv.weight, after.convolutions[0].conv.weight)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--encoder_head", "1"), "--encoder_head says nothing of Darknet"),
        (("--no_dn",), "--no_dn says nothing of Darknet"),
        (("--teacher",), "the teacher is a DETR, and the model a Darknet detector"),
    ],
)
def test_training_refuses_what_is_for_detrs(folder, tmp_path, flags, told):
    with pytest.raises(UserError, match=told):
        train(folder, tmp_path, "--resume", str(folder / "small.safetensors"), *flags)


@pytest.mark.parametrize("flags", [("--hidden_dim", "64"), ("--short_side", "64"), ("--names", "x")])
def test_a_new_darknet_is_said_by_its_cfg_alone(folder, flags):
    with pytest.raises(UserError, match=f"{flags[0]} says nothing of a new Darknet detector"):
        train_main(["--model", "darknet", "--cfg", str(folder / "small.cfg"), *flags])


def test_new_classes_start_from_those_of_the_same_name(folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}2017.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 11, "name": "star"})
        path.write_text(json.dumps(content))
    words = ["--resume", str(folder / "small.safetensors"), "--new_classes", "--steps", "1", "--lr", "0"]
    assert (
        train_main(
            [*words, "--coco_path", str(data), *PLACE, "--output_dir", str(tmp_path / "run"), "--batch_size", "4"]
        )
        == 0
    )
    model = greedyprune.load(tmp_path / "run" / "last.safetensors")
    assert model.classes.names == ("box", "disc", "star")
