import torch

from greedyprune.training import Ema
from greedyprune.training.ema import ema_decay

from .tiny_training import small_model


def test_the_decay_rises_to_what_was_asked_for():
    assert [ema_decay(step, 0.5) for step in (1, 2, 8, 9, 1000)] == [2 / 11, 3 / 12, 0.5, 0.5, 0.5]


def test_weights_and_norm_statistics_are_averaged_by_the_formula():
    model = small_model()
    ema = Ema(model, 0.9)
    names = ("class_embed.weight", "backbone.0.body.bn1.running_var", "transformer.decoder.norm.bias")
    tensors = {name: value for name, value in model.state_dict().items() if name in names}
    expected = {name: value.double() for name, value in tensors.items()}
    for step in range(1, 6):
        with torch.no_grad():
            for value in tensors.values():
                value.add_(torch.randn(value.shape))
            model.backbone[0].body.bn1.num_batches_tracked.add_(1)
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in tensors.items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    average = ema.model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(average[name].double(), value, rtol=1e-6, atol=1e-6)
    assert int(average["backbone.0.body.bn1.num_batches_tracked"]) == 5


def test_the_average_is_a_model_of_its_own_in_eval_mode():
    model = small_model()
    ema = Ema(model.train(), 0.9)
    before = ema.model.class_embed.weight.clone()
    with torch.no_grad():
        model.class_embed.weight.add_(1)
    assert torch.equal(ema.model.class_embed.weight, before)
    assert not ema.model.training
    assert ema.model.bbox_embed is ema.model.transformer.decoder.bbox_embed
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
