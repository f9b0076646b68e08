"""What an engine may rely on: submodule calls that can be replayed, layers that can be skipped, last answers alone."""

import pytest
import torch
from torch import nn

from greedyprune.models import Criterion, Detector, ImageBatch, pad_images
from greedyprune.models.layers import MLP, Attention, DotProductAttention, Layer, PackedSelfAttention, Skipped

from ..helpers.crossed import crossed
from ..helpers.detectors import IMAGES, KINDS, TARGETS, detector


class Calls:
    """Records the results of calls of some modules, and answers later calls from them."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.results: dict[tuple[int, int], object] = {}
        self.copies: dict[tuple[int, int], object] = {}
        self.replayed = 0
        self._count: dict[int, int] = {}
        self._forwards = {id(module): module.forward for module in modules}
        for module in modules:
            module.forward = self._wrapped(module)

    def start(self) -> None:
        self._count = {}

    def _wrapped(self, module):
        def forward(*given, **named):
            number = self._count[id(module)] = self._count.get(id(module), -1) + 1
            key = id(module), number
            if key in self.results:
                self.replayed += 1
                return self.results[key]
            result = self._forwards[id(module)](*given, **named)
            self.results[key], self.copies[key] = result, copied(result)
            return result

        return forward


def copied(result):
    if isinstance(result, torch.Tensor):
        return result.clone()
    return [copied(item) for item in result] if isinstance(result, list | tuple) else None


def same(result, copy):
    if isinstance(result, torch.Tensor):
        return torch.equal(result, copy) or not result.isfinite().all()
    return all(same(*pair) for pair in zip(result, copy, strict=True)) if isinstance(copy, list) else True


@pytest.mark.parametrize(("kind", "backbone"), crossed(KINDS, ["small", "resnet18"]))
def test_no_call_changes_the_result_of_another(kind, backbone):
    model = detector(kind, backbone=backbone)
    inside = [m for name, m in model.named_modules() if name and ".body.layer" not in name]  # torchvision's own blocks
    calls = Calls(inside)
    with torch.no_grad():
        model(IMAGES)
    assert len(calls.results) > 50
    assert all(same(result, calls.copies[key]) for key, result in calls.results.items())


@pytest.mark.parametrize("kind", KINDS)
def test_calls_can_be_replayed_without_pixels(kind):
    model = detector(kind)
    transformer = model.transformer
    calls = Calls([model.backbone, transformer.encoder.layers[0], transformer.decoder.layers[0].self_attn])
    batch = pad_images(IMAGES)
    with torch.no_grad():
        wanted = model(batch)
        calls.start()
        placeholder = torch.full((), torch.nan).expand(batch.tensors.shape)
        found = model(ImageBatch(placeholder, batch.padding))
    assert calls.replayed == 3
    for left, right in zip(found.layers(), wanted.layers(), strict=True):
        assert torch.equal(left.logits, right.logits)
        assert torch.equal(left.boxes, right.boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_maps_and_attention_cores_are_called_as_modules(kind):
    model, called = detector(kind), set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    with torch.no_grad():
        model(IMAGES)
    kinds = nn.Linear, nn.Conv2d, nn.LayerNorm, MLP, Layer, Attention, PackedSelfAttention, DotProductAttention
    assert {name for name, module in model.named_modules() if isinstance(module, kinds)} <= called


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_answer_alone_is_that_of_all(kind):
    model = detector(kind)
    with torch.no_grad():
        whole, last = model(IMAGES), model(IMAGES, last_only=True)
    assert len(whole.earlier) == 2
    assert last.earlier == ()
    torch.testing.assert_close(last.logits, whole.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last.boxes, whole.boxes, rtol=1e-5, atol=1e-6)


def without_layers(model: Detector, encoder=(), decoder=()) -> Detector:
    for index in encoder:
        model.transformer.encoder.layers[index] = Skipped()
    for index in decoder:
        model.transformer.decoder.layers[index] = Skipped()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_last_layer_leaves_the_answers_before_it(kind):
    model = detector(kind)
    with torch.no_grad():
        whole = model(IMAGES)
        found = without_layers(model, decoder=[2])(IMAGES)
    torch.testing.assert_close(found.logits, whole.earlier[1].logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.boxes, whole.earlier[1].boxes, rtol=1e-5, atol=1e-6)
    assert len(found.earlier) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_layer_passes_content_and_references_on(kind):
    shorter, identity = without_layers(detector(kind), encoder=[0, 1], decoder=[1]), detector(kind)
    for layer in (*identity.transformer.encoder.layers, identity.transformer.decoder.layers[1]):
        layer.forward = lambda x, *_, **__: x
    decoder = identity.transformer.decoder
    refine = decoder.refine
    decoder.refine = lambda index, content, start: start if index == 1 else refine(index, content, start)
    with torch.no_grad():
        wanted, found = identity(IMAGES), shorter(IMAGES)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-4, atol=1e-5)
    assert len(found.earlier) == len(wanted.earlier) - 1 == 1
    assert set(shorter.state_dict()) < set(identity.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_queries_that_are_left_out_are_not_answered(kind):
    model = detector(kind)
    if model.query_tables:
        for table in model.query_tables:
            table.weight = nn.Parameter(table.weight[[0, 3, 4, 8]])
    else:
        model.num_proposals = 4
    patterns = model.options.to_dict().get("num_patterns") or 1
    answer = model.train()(IMAGES, TARGETS)
    assert {layer.logits.shape[1] for layer in answer.layers()} == {4 * patterns}
    assert (answer.denoising is None) == (model.label_enc is None)
    losses = Criterion(4)(answer, TARGETS)
    assert all(loss.isfinite() for loss in losses.values())
