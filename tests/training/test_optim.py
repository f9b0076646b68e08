import math

import pytest
import torch

from greedyprune.training import TrainOptions
from greedyprune.training.optim import (
    load_optimizer,
    lr_factor,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    set_lr,
)

from .tiny_training import small_model


def factors(options, steps_per_epoch=10):
    return [lr_factor(step, steps_per_epoch, options) for step in range(options.total_steps(steps_per_epoch))]


def test_the_step_schedule_drops_to_a_tenth_after_its_epoch():
    assert factors(TrainOptions(epochs=3, lr_drop=2)) == [1.0] * 20 + [0.1] * 10


def test_the_constant_schedule_is_constant_after_the_warm_up():
    values = factors(TrainOptions(epochs=2, schedule="constant", warmup_steps=4))
    assert values == [0.25, 0.5, 0.75, 1.0] + [1.0] * 16


def test_the_cosine_starts_at_one_after_the_warm_up_is_a_half_in_the_middle_and_ends_near_zero():
    values = factors(TrainOptions(epochs=10, schedule="cosine", warmup_steps=20))
    assert values[19] == 1.0
    assert values[20] == 1.0
    assert values[60] == pytest.approx(0.5)
    assert values[40] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert 0 < values[-1] < 1e-3


def test_every_trained_parameter_is_in_one_group_with_its_learning_rate():
    model = small_model()
    groups = parameter_groups(model, TrainOptions(lr=1e-3, lr_backbone=1e-4, no_decay_norm=True))
    where = {id(p): (g["base_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(where)
    assert len(where) == len(list(model.parameters()))
    assert where[id(model.get_parameter("backbone.0.body.conv1.weight"))] == (1e-4, 1e-4)
    assert where[id(model.get_parameter("backbone.0.body.bn1.weight"))] == (1e-4, 0.0)
    assert where[id(model.class_embed.weight)] == (1e-3, 1e-4)
    assert where[id(model.class_embed.bias)] == (1e-3, 0.0)
    assert where[id(model.get_parameter("transformer.encoder.layers.0.activation.weight"))] == (1e-3, 0.0)


def test_a_backbone_without_learning_rate_is_not_trained():
    model = small_model()
    groups = parameter_groups(model, TrainOptions(lr_backbone=0))
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert [g["base_lr"] for g in groups] == [1e-4]


def test_a_resnet_trains_what_the_published_model_trains():
    model = small_model(backbone="resnet18")
    groups = parameter_groups(model, TrainOptions())
    trained = {id(p) for g in groups for p in g["params"] if g["base_lr"] == 1e-5}
    names = {name.split(".")[3] for name, p in model.named_parameters() if id(p) in trained}
    assert names == {"layer2", "layer3", "layer4"}


def test_the_schedule_scales_both_learning_rates():
    optimizer = make_optimizer(small_model(), TrainOptions(lr=1e-3, lr_backbone=1e-4))
    set_lr(optimizer, 0.5)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [5e-5, 5e-4]


def test_an_optimizer_goes_on_from_its_tensors_in_channels_last_too():
    def gradient_step(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        optimizer.step()

    straight, copied = (small_model().to(memory_format=torch.channels_last) for _ in range(2))
    optimizer = make_optimizer(straight, TrainOptions())
    gradient_step(straight, optimizer, 1)
    copied.load_state_dict(straight.state_dict())
    resumed = make_optimizer(copied, TrainOptions())
    tensors = {name: value.clone().contiguous() for name, value in optimizer_tensors(optimizer, straight).items()}
    load_optimizer(resumed, copied, tensors)
    gradient_step(straight, optimizer, 2)
    gradient_step(copied, resumed, 2)
    for (name, a), b in zip(straight.named_parameters(), copied.parameters(), strict=True):
        assert torch.equal(a, b), name
