import pytest

from greedyprune import UserError
from greedyprune.training import RunOptions, TrainOptions


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"lr": -1.0}, "--lr is -1.0"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"clip_max_norm": float("inf")}, "--clip_max_norm is inf"),
        ({"schedule": "linear"}, "--schedule 'linear' is unknown; choose one of step, cosine, constant"),
        ({"augment": "mosaic"}, "--augment 'mosaic'"),
        ({"ema": 1.0}, "--ema is 1.0"),
        ({"lr_drop": 0}, "--lr_drop is 0"),
        ({"freeze_norm_at": 1.5}, "--freeze_norm_at is 1.5"),
        ({"freeze_norm_at": 0.5, "freeze_norm_epoch": 1}, "leave one of them out"),
    ],
)
def test_an_impossible_option_is_refused_by_name_and_value(options, named):
    with pytest.raises(UserError) as refusal:
        TrainOptions(**options)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_intervals_of_the_run_are_at_least_one_step():
    with pytest.raises(UserError, match="--save_every is 0"):
        RunOptions(save_every=0)


def test_the_published_drops_come_out_by_default():
    assert TrainOptions(epochs=12).drop_epoch == 11
    assert TrainOptions(epochs=50).drop_epoch == 40
    assert TrainOptions(epochs=50, lr_drop=30).drop_epoch == 30


def test_the_cap_on_steps_counts_where_it_is_lower():
    assert TrainOptions(epochs=3).total_steps(10) == 30
    assert TrainOptions(epochs=3, steps=25).total_steps(10) == 25
    assert TrainOptions(epochs=3, steps=99).total_steps(10) == 30


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({}, None),
        ({"freeze_norm_epoch": 2}, 20),
        ({"freeze_norm_at": 0.75}, 30),
        ({"freeze_norm_at": 0.75, "steps": 20}, 15),
        ({"lr_backbone": 0.0}, 0),
    ],
)
def test_norms_freeze_at_an_epoch_or_a_share_or_with_their_backbone(options, step):
    assert TrainOptions(epochs=4, **options).norm_frozen_from(10) == step
