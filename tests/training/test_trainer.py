import pytest
import torch

from greedyprune import UserError, load_model
from greedyprune.classical import METHODS, Subject
from greedyprune.families import family_of
from greedyprune.training import Stopped
from greedyprune.training.state import BEST, LAST, STATE

from .tiny_training import farthest, losses, make_trainer, read_log, signal_after, small_model, train, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def frozen_model():
    return small_model(freeze_norm=True)


def test_training_lowers_the_loss(data, tmp_path):
    records = train(make_trainer(data, tmp_path, epochs=15, lr=2e-3, lr_backbone=2e-3, run={"log_every": 2}))
    values = losses(records)
    assert len(values) == 15
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


@pytest.mark.slow
@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_a_training_that_is_stopped_at_every_step_ends_with_the_same_weights(data, tmp_path, ema):
    options = {"epochs": 2, "ema": ema, "augment": "flips", "schedule": "cosine", "warmup_steps": 2, "eval_every": 1}
    run = {"log_every": 1}
    train(make_trainer(data, tmp_path / "straight", run=run, **options))
    for stop in range(1, 5):
        trainer = make_trainer(data, tmp_path / "stopped", run=run, **options)
        signal_after(trainer, stop - trainer.position.step)
        if stop < 4:
            with pytest.raises(Stopped, match=f"state of step {stop} "):
                train(trainer)
        else:
            train(make_trainer(data, tmp_path / "stopped", run=run, **options))
    for name in (LAST, BEST, STATE):
        assert farthest(tmp_path / "straight" / name, tmp_path / "stopped" / name) == 0
    assert losses(read_log(tmp_path / "straight")) == losses(read_log(tmp_path / "stopped"))
    assert make_trainer(data, tmp_path / "stopped", run=run, **options).position.finished


def test_accumulated_parts_are_the_same_training_as_the_whole_batch(data, tmp_path):
    noise = {"label_noise_scale": 0.0, "box_noise_scale": 0.0, "train_images": 8}  # two objects in each
    for parts in (1, 2, 4):
        run = {"accumulate": parts, "log_every": 1}
        train(make_trainer(data, tmp_path / str(parts), model=frozen_model(), run=run, **noise))
    whole = losses(read_log(tmp_path / "1"))
    for parts in (2, 4):
        assert losses(read_log(tmp_path / str(parts))) == pytest.approx(whole, rel=1e-5)
        assert farthest(tmp_path / "1" / LAST, tmp_path / str(parts) / LAST) < 1e-5


def test_a_loss_that_is_not_finite_stops_with_the_images_and_keeps_what_was_saved(data, tmp_path):
    trainer = make_trainer(data, tmp_path, eval_every=1)
    step, before = trainer._step, {}

    def poisoned(parts, num_boxes):
        if trainer.position.step == 2:  # the first of the second epoch
            before.update({name: (tmp_path / name).read_bytes() for name in (STATE, LAST, BEST)})
            with torch.no_grad():
                trainer.model.class_embed.bias.fill_(float("nan"))
        step(parts, num_boxes)

    trainer._step = poisoned
    with pytest.raises(UserError) as stop:
        trainer.train(None)
    line = str(stop.value)
    assert "loss is nan in step 3, epoch 2, images " in line
    assert sum(str(image) in line.split("images ")[1].split(";")[0].split(", ") for image in range(10, 100, 10)) == 4
    assert "\n" not in line
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(data, tmp_path):
    trainer = make_trainer(data, tmp_path)
    weights = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.model.class_embed.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"the gradient's norm is (inf|nan) in step 1, epoch 1"):
        trainer.train(None)
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.named_parameters())


def test_norm_statistics_stop_moving_where_they_are_frozen(data, tmp_path):
    trainer = make_trainer(data, tmp_path, epochs=4, freeze_norm_epoch=1)
    norm = trainer.model.backbone[0].body.bn1
    train(trainer)
    assert int(norm.num_batches_tracked) == 2  # of the first epoch
    assert trainer.position.step == 8


def test_the_best_checkpoint_is_the_average_of_the_best_epoch(data, tmp_path):
    trainer = make_trainer(data, tmp_path, epochs=3, ema=0.5, eval_every=1)
    aps = iter([{"AP": 0.2, "AP50": 0.3}, {"AP": 0.4, "AP50": 0.5}, {"AP": 0.3, "AP50": 0.4}])
    averages = []

    def measure(model, progress=None):
        averages.append(model.class_embed.weight.clone())
        return next(aps)

    trainer.validation.measure = measure
    train(trainer)
    assert (trainer.position.best_ap, trainer.position.best_epoch) == (0.4, 2)
    assert torch.equal(load_model(tmp_path / BEST).class_embed.weight, averages[1])
    assert torch.equal(load_model(tmp_path / LAST).class_embed.weight, averages[2])


def test_evaluation_comes_every_few_epochs_and_at_the_end(data, tmp_path):
    records = train(make_trainer(data, tmp_path, epochs=5, eval_every=2))
    assert [(r["epoch"], "AP" in r) for r in records if r.get("kind") == "epoch"] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
        (5, True),
    ]


@pytest.mark.parametrize("options", [{"no_dn": True}, {"amp": "bf16"}, {"lr_backbone": 0.0}])
def test_other_ways_to_train_run_through(data, tmp_path, options):
    records = train(make_trainer(data, tmp_path, run={"log_every": 1, "channels_last": True}, **options))
    assert len(losses(records)) == 4
    assert ("tgt_loss_ce" in records[0]) != bool(options.get("no_dn"))


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_zeros_are_kept_and_the_files_are_those_of_any_model(data, tmp_path, ema):
    def pruned():
        model = small_model()
        return METHODS["weight"].apply(Subject(family_of(model), model), 0.8).train()

    options = {"keep_zeros": True, "ema": ema, "eval_every": 1, "lr": 1e-2, "lr_backbone": 1e-2, "weight_decay": 0.1}
    train(make_trainer(data, tmp_path / "straight", model=pruned(), **options))
    before = pruned().state_dict()
    for name in (LAST, BEST):
        after = load_model(tmp_path / "straight" / name)
        zeros = {key: tensor == 0 for key, tensor in before.items() if tensor.dim() > 1 and (tensor == 0).any()}
        weights = {key: tensor for key, tensor in after.state_dict().items() if key in zeros}
        assert sum(int(each.sum()) for each in zeros.values()) > 1000
        assert all(not weights[key][zeros[key]].any() for key in weights if "embed" not in key)
        assert any(not torch.equal(weights[key], before[key]) for key in weights)
    # And a state from which it goes on.
    trainer = make_trainer(data, tmp_path / "stopped", model=pruned(), **options)
    signal_after(trainer, 3)
    with pytest.raises(Stopped):
        train(trainer)
    train(make_trainer(data, tmp_path / "stopped", model=pruned(), **options))
    assert farthest(tmp_path / "straight" / LAST, tmp_path / "stopped" / LAST) == 0
