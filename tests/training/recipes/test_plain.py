"""Any detector whose family has a loss is trained, and goes on where it was."""

import pytest
import torch

from greedyprune import UserError, families
from greedyprune.classes import Classes
from greedyprune.models.darknet.options import DarknetInfo
from greedyprune.training import Stopped
from greedyprune.training.recipes.plain import SCALE_STEPS
from greedyprune.training.state import LAST, STATE

from ...evaluation.tiny_coco import CATEGORIES
from ...helpers.grid_family import GridDetector, GridFamily
from ...models.darknet.small_darknet import small_darknet
from ..tiny_training import farthest, losses, make_trainer, signal_after, train, write_data


class Grid(GridFamily):
    """A grid detector of the data's classes."""

    def classes(self, model):
        return Classes(2, tuple(CATEGORIES), tuple(CATEGORIES.values()))


class TaughtGrid(Grid):
    """One that learns to find nothing."""

    def loss(self, model):
        return lambda answer, targets: -answer.logits.log_softmax(-1)[..., -1].mean()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def registered(monkeypatch):
    def register(family):
        monkeypatch.setattr(families, "_FAMILIES", [family, *families._FAMILIES])

    return register


def test_a_family_with_a_loss_is_trained_and_one_without_is_refused(data, tmp_path, registered):
    registered(Grid())
    with pytest.raises(UserError, match="a grid detector has no loss to train it with"):
        make_trainer(data, tmp_path, model=GridDetector(2))
    registered(TaughtGrid())
    options = {"epochs": 4, "lr": 1e-2, "optimizer": "sgd", "clip_max_norm": 0.0}
    found = losses(train(make_trainer(data, tmp_path, model=GridDetector(2), run={"log_every": 1}, **options)))
    assert found[-1] < found[0]
    with pytest.raises(UserError, match="--multi_scale: a grid detector has no other sizes"):
        make_trainer(data, tmp_path / "other", model=GridDetector(2), multi_scale=True)


def test_a_training_that_is_stopped_ends_with_the_same_weights_and_images_seen(data, tmp_path):
    options = {"epochs": 2, "ema": 0.5, "augment": "darknet", "multi_scale": True, "lr": 1e-3}
    train(make_trainer(data, tmp_path / "straight", model=small_darknet(), **options))
    for stop in (1, 3):
        trainer = make_trainer(data, tmp_path / "stopped", model=small_darknet(), **options)
        signal_after(trainer, stop - trainer.position.step)
        with pytest.raises(Stopped):
            train(trainer)
    trainer = make_trainer(data, tmp_path / "stopped", model=small_darknet(), **options)
    train(trainer)
    assert int(trainer.model.seen) == int(trainer.result.seen) == 16
    for name in (LAST, STATE):
        assert farthest(tmp_path / "straight" / name, tmp_path / "stopped" / name) == 0


@pytest.mark.parametrize("summed", [False, True])
def test_parts_of_a_step_are_the_whole_step(data, tmp_path, summed):
    options = {"epochs": 1, "lr": 1e-3, "optimizer": "sgd", "freeze_norm_epoch": 0, "loss_sum": summed}
    for parts in (1, 2):
        train(make_trainer(data, tmp_path / str(parts), model=small_darknet(), run={"accumulate": parts}, **options))
    assert farthest(tmp_path / "1" / LAST, tmp_path / "2" / LAST) < 1e-5


def test_the_sum_is_so_many_times_the_mean(data, tmp_path):
    first = [
        losses(train(make_trainer(data, tmp_path / str(summed), model=small_darknet(), run={"log_every": 1}, **each)))[
            0
        ]
        for summed, each in ((False, {"steps": 1}), (True, {"steps": 1, "loss_sum": True}))
    ]
    assert first[1] == pytest.approx(4 * first[0], rel=1e-5)


def test_images_keep_their_size_for_some_steps_and_then_get_another(data, tmp_path):
    trainer = make_trainer(data, tmp_path, model=small_darknet(), multi_scale=True)
    images = torch.rand(1, 3, 32, 64)
    sizes = [tuple(trainer.recipe._scaled(images, step).shape[-2:]) for step in range(100 * SCALE_STEPS)]
    assert all(len(set(sizes[start : start + SCALE_STEPS])) == 1 for start in range(0, len(sizes), SCALE_STEPS))
    assert set(sizes) == set(trainer.recipe.scales)
    assert all(height % 8 == 0 and width % 8 == 0 for height, width in sizes)
    assert (24, 48) in sizes
    assert (48, 96) in sizes


def test_a_teacher_of_other_classes_is_refused(data, tmp_path):
    teacher = small_darknet(DarknetInfo(("box", "ring"), (3, 8)))
    with pytest.raises(UserError, match="1 of its 2 classes are others, the first is ring, not disc"):
        make_trainer(data, tmp_path, model=small_darknet(), teacher=teacher)
