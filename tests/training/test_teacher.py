"""A student with a teacher learns its answers, to its own queries."""

import pytest
import torch

from greedyprune import UserError
from greedyprune.models import Denoising, ModelInfo, pad_images
from greedyprune.models.answers import answer_errors
from greedyprune.pruning.prefix import Place, advance, asked_as, begin, finish
from greedyprune.training.teacher import Teacher

from ..pruning.test_prefix import IMAGES, MODELS, TARGETS, detector
from .tiny_training import make_trainer, small_model, train, write_data


def spoilt(model):
    """The same detector with other weights in its layers, as after a cut."""
    with torch.no_grad():
        for layers in (model.transformer.encoder.layers, model.transformer.decoder.layers):
            for parameter in layers.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_the_teacher_answers_the_queries_that_the_student_is_asked(kind):
    teacher, student = detector(kind), spoilt(detector(kind, freeze_norm=True)).train()
    batch = pad_images(IMAGES)
    asks = Teacher(teacher, student)
    outputs = student(batch, TARGETS, Denoising())
    answers = asks.answers(batch)
    student.eval()
    with torch.no_grad():
        before = advance(teacher, begin(teacher.features(batch)), Place(True, 0))
        if teacher.options.to_dict().get("two_stage"):
            before = asked_as(before, advance(student, begin(student.features(batch)), Place(True, 0)))
        wanted = finish(teacher, before)
    assert len(answer_errors(outputs, answers)) == 3
    for own, aim in zip((answers, *answers["aux_outputs"]), (wanted, *wanted["aux_outputs"]), strict=True):
        for key in ("pred_logits", "pred_boxes"):
            assert own[key].shape == outputs[key].shape
            assert torch.allclose(own[key], aim[key], atol=1e-4)


def test_a_teacher_of_other_questions_is_refused_with_what_differs():
    with pytest.raises(UserError, match=r"num_queries 5, not 9; dec_layers 1, not 2\. Give the dense detector"):
        Teacher(small_model(num_queries=5, dec_layers=1), small_model())


@pytest.mark.parametrize(
    ("names", "ids", "line"),
    [
        (("disc", "box"), (3, 8), "2 of its 2 classes are others, the first is disc, not box. Give the dense detector"),
        (("box", "[/red]"), (3, 8), "1 of its 2 classes are others, the first is [/red], not disc. Give"),
        (("BOX ", "disc"), (1, 2), ""),
        ((), (), ""),
        ((), (3, 9), "1 of its 2 classes are others, the first is 9, not 8"),
    ],
)
def test_a_teacher_of_other_classes_is_refused_and_names_count_before_ids(names, ids, line):
    teacher = small_model()
    teacher.info = ModelInfo(names, ids, 48, 64)
    if not line:
        Teacher(teacher, small_model())
        return
    with pytest.raises(UserError) as refusal:
        Teacher(teacher, small_model())
    assert line in str(refusal.value)


def test_training_with_a_teacher_brings_the_answers_nearer_to_its_own(tmp_path):
    data = write_data(tmp_path / "data")
    batch = pad_images([torch.randn(3, 48, 64) for _ in range(4)])
    torch.manual_seed(0)
    student, teacher = spoilt(small_model()), small_model().eval()

    def distance():
        with torch.no_grad():
            floor = answer_errors(teacher(batch), teacher(batch))
            errors = answer_errors(student.eval()(batch), teacher(batch))
        return (torch.stack(errors) - torch.stack(floor)).sum().item()

    before = distance()
    trainer = make_trainer(
        data, tmp_path / "out", model=student, teacher=teacher, epochs=12, lr=2e-3, lr_backbone=0.0, distill=10.0
    )
    weights = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    train(trainer)
    assert distance() < before / 2
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.state_dict().items())
