"""The taylor score is the squared derivative of each image's loss in a gate on the channel."""

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

from greedyprune.pruning import scorers
from greedyprune.pruning.kinds.channels import by_group
from greedyprune.pruning.scorers import taylor
from greedyprune.sites import AttentionSite, HiddenSite

from ...helpers.engine import Subject, shared


def gated_scores(one: Subject, batches: list) -> dict[str, Tensor]:
    """By brute force: gates of 1 in front of everything that reads the site's channels."""
    loss, scores = one.family.loss(one.model), {}
    sites = [site for site in one.sites if isinstance(site, (AttentionSite, HiddenSite))]
    for images, targets in batches:
        gates = {site.name: torch.ones(len(images), site.full, requires_grad=True) for site in sites}
        with ExitStack() as stack:
            for site in sites:
                for part in site.slices:
                    if part.output:

                        def gate(module: nn.Module, args: tuple, own: Tensor = gates[site.name]) -> tuple:
                            x = args[0]
                            shape = (len(x), -1, 1, 1) if x.dim() == 4 else (len(x), *[1] * (x.dim() - 2), -1)
                            return x * own.view(shape), *args[1:]

                        layer = one.model.get_submodule(part.name.removesuffix(".weight"))
                        stack.callback(layer.register_forward_pre_hook(gate).remove)
            answer = one.family.answer(one.model, one.family.inputs(one.model, images))
        found = torch.autograd.grad(loss(answer, targets), list(gates.values()), allow_unused=True)
        for name, gradient in zip(gates, found, strict=True):
            own = torch.zeros_like(gates[name]) if gradient is None else gradient
            scores[name] = scores.get(name, 0) + own.double().square().sum(0)
    return scores


@pytest.mark.parametrize("kind", ["dn_detr", "deformable, two stages", "deformable encoder, level by level"])
def test_the_score_is_the_squared_derivative_in_a_gate(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = shared(kind)
    seen: list[Tensor] = []

    def keep(site: object, order: Tensor) -> Tensor:
        return by_group(site, order)

    monkeypatch.setattr(
        Tensor, "sort", lambda self, sort=Tensor.sort, **how: (seen.append(self.clone()), sort(self, **how))[1]
    )
    monkeypatch.setattr(taylor, "by_group", keep)
    batches = one.batches(2)
    given = scorers.given(one.activations(batches), one.sites)
    orders = taylor.taylor_orders(given)
    found = dict(zip([site.name for site in given.channel_sites], seen[-len(given.channel_sites) :], strict=True))
    expected = gated_scores(one, list(batches.batches))
    assert found.keys() == expected.keys() == orders.keys()
    for name, score in expected.items():
        assert torch.allclose(found[name], score, rtol=1e-2, atol=1e-3 * float(score.max())), name
        assert score.max() > 0 or name == "decoder.0.self"
