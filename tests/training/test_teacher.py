"""A student with a teacher learns its answers, to its own queries."""

import pytest
import torch

from greedyprune import UserError
from greedyprune.models import Denoising, ModelInfo, pad_images
from greedyprune.models.layers import Skipped
from greedyprune.pruning.answers import answer_errors
from greedyprune.training.teacher import Teacher

from ..helpers.detectors import IMAGES, KINDS, TARGETS, detector
from .tiny_training import make_trainer, small_model, train, write_data


def spoilt(model):
    """The same detector with other weights in its layers, as after a cut."""
    with torch.no_grad():
        for layers in (model.transformer.encoder.layers, model.transformer.decoder.layers):
            for parameter in layers.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def without(model, queries=(), layers=()):
    """The same detector with only some of its queries, and without some of its decoder layers."""
    for table in model.query_tables if queries else ():
        table.weight = torch.nn.Parameter(table.weight.detach()[list(queries)])
    for layer in layers:
        model.transformer.decoder.layers[layer] = Skipped()
    return model


def expected(teacher, student, batch):
    """The teacher's whole answer; of a second stage, to the proposals that the student looks at."""
    with torch.no_grad():
        features, own = teacher.features(batch), student.features(batch)
        asked = student.queries(own, student.transformer.encoder(own))
        return teacher.detect(features, (lambda memory: asked) if asked.proposals is not None else None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_answers_the_queries_that_the_student_is_asked(kind):
    teacher, student = detector(kind), spoilt(detector(kind, freeze_norm=True)).train()
    batch = pad_images(IMAGES)
    asks = Teacher(teacher, student)
    answer = student(batch, TARGETS, Denoising())
    target = asks.answer(batch)
    wanted = expected(teacher, student.eval(), batch)
    assert len(answer_errors(answer, target)) == 3
    for own, aim, ours in zip(target.layers(), wanted.layers(), answer.layers(), strict=True):
        for key in ("logits", "boxes"):
            assert getattr(own, key).shape == getattr(ours, key).shape
            assert torch.allclose(getattr(own, key), getattr(aim, key), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_without_some_queries_and_layers_learns_from_their_counterparts(kind):
    queries, patterns = [1, 2, 5, 8], detector(kind).options.to_dict().get("num_patterns") or 1
    teacher, student = detector(kind), without(spoilt(detector(kind, freeze_norm=True)), queries, [0, 2]).train()
    batch = pad_images(IMAGES)
    if not student.query_tables:
        student.num_proposals = len(queries)
    asks = Teacher(teacher, student)
    answer = student(batch, TARGETS, Denoising())
    target = asks.answer(batch)
    wanted = expected(teacher, student.eval(), batch)
    if student.query_tables:
        wanted = wanted.of_queries(torch.tensor([9 * p + query for p in range(patterns) for query in queries]))
    assert len(answer_errors(answer, target)) == 1  # of three layers one is left, which learns the last one's answer
    assert torch.allclose(target.logits, wanted.logits, atol=1e-4)
    assert torch.allclose(target.boxes, wanted.boxes, atol=1e-4)


def test_a_teacher_of_other_questions_is_refused_with_what_differs():
    with pytest.raises(UserError, match=r"dec_layers 1, not 2; num_queries 5, not 9\. Give the dense detector"):
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


@pytest.mark.slow
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
