"""Blocks are held to what the dense ones give, padding and queries that left apart."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.families.base import Block
from greedyprune.pruning.layerwise import Aim, mend_chain, mend_singles, parameters_of
from greedyprune.pruning.replay import Replay, Tape
from greedyprune.pruning.shelf import Shelf, Store
from greedyprune.pruning.transplant import shape_change
from greedyprune.sites.change import WHOLE, Pairing

from ..helpers.engine import PLENTY, Subject, bits, shared, unchanged


def replay(one: Subject, model: nn.Module) -> Replay:
    return Replay(model, lambda inputs: one.family.answer(model, inputs))


def test_outputs_are_compared_where_there_is_image_and_for_queries_that_are_left() -> None:
    one = shared()
    inputs = one.family.inputs(one.model, one.images)
    tokens = one.model.features(inputs).shown[:, 0, 0]
    own, dense = torch.randn(2, *tokens.shape[1:], 32), torch.randn(2, *tokens.shape[1:], 32)
    aim = Aim(one.family, one.model, WHOLE)
    found = aim.error("transformer.encoder.layers.0", inputs, own, dense)
    assert torch.allclose(found, F.mse_loss(own[tokens], dense[tokens]))
    cells, its = torch.randn(2, 96, 8, 12), torch.randn(2, 96, 8, 12)
    shown = one.family.shown(one.model, inputs, "backbone.0.body.layer2.0", cells)
    found = aim.error("backbone.0.body.layer2.0", inputs, cells, its)
    assert torch.allclose(found, (cells - its).movedim(1, -1)[shown].square().mean())
    kept = torch.tensor([1, 4, 5])
    some = Aim(one.family, one.model, Pairing(kept))
    queries, all_ = torch.randn(2, 3, 32), torch.randn(2, 9, 32)
    found = some.error("transformer.decoder.layers.0", inputs, queries, all_)
    assert torch.allclose(found, F.mse_loss(queries, all_[:, kept]))
    found = some.error("transformer.encoder.layers.0", inputs, own, dense)
    assert torch.allclose(found, F.mse_loss(own[tokens], dense[tokens]))


def test_what_gives_what_the_dense_one_gives_is_left_alone_and_the_rest_learns() -> None:
    one = shared()
    chain = [block for block in one.family.blocks(one.model) if block.chained]
    change = shape_change(one.sites, one.model.state_dict(), {"encoder.1.ffn": 8})
    slim = one.family.slim(one.model, change).requires_grad_(False)
    before, told = bits(slim), []
    watcher = type("Told", (), {"doing": lambda self, text: told.append(text), "progress": lambda self, *_: None})()
    with Store(PLENTY) as store:
        tapes = [Tape.of_inputs(one.family.inputs(one.model, images)) for images, _ in one.batches(2).iterate()]
        theirs, own = Shelf(store, tapes), Shelf(store, tapes)
        aim = Aim(one.family, slim, WHOLE)
        mend_chain(aim, chain[:4], replay(one, one.model), replay(one, slim), theirs, own, 10, watcher)
        assert told == ["mending encoder layer 1, its FFN"]
        assert {tape.place for tape in own} == {tape.place for tape in theirs} == {(chain[3].ends, 0)}
    changed = {name for name, tensor in slim.state_dict().items() if not torch.equal(tensor, before[name])}
    layer = "transformer.encoder.layers.1"
    learned = {id(parameter) for parameter in parameters_of(slim, chain[3].learns)}
    assert changed == {name for name, parameter in slim.named_parameters() if id(parameter) in learned}
    assert f"{layer}.linear1.weight" in changed
    assert f"{layer}.self_attn.in_proj_weight" not in changed


class Line(nn.Module):
    """Two blocks, each of which stands alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class LineFamily:
    """As much of a family as blocks that are mended by themselves ask for."""

    def folded(self, model: nn.Module) -> nn.Module:
        return model

    def inputs(self, model: nn.Module, images: list[Tensor]) -> Tensor:
        return torch.stack(images)

    def answer(self, model: nn.Module, inputs: Tensor, last_only: bool = False) -> Tensor:
        return model(inputs)


def test_single_blocks_that_are_cut_learn_from_what_the_dense_ones_are_given() -> None:
    dense, slim = Line().requires_grad_(False), Line().requires_grad_(False)
    with torch.no_grad():
        for name, part in (("0", slice(6)), ("2", slice(None))):
            layer = slim.second.get_submodule(name)
            layer.weight = nn.Parameter(layer.weight[part] if name == "0" else layer.weight[:, :6], False)
        slim.second[0].bias = nn.Parameter(slim.second[0].bias[:6], False)
        slim.first[0].weight.add_(1.0)  # as wide as the dense one's: it is not looked at
    images = [[torch.randn(4, generator=torch.Generator().manual_seed(n)) for n in range(20)]]
    before, own = bits(slim), bits(dense)
    given = dense.first(torch.stack(images[0]))
    error = F.mse_loss(slim.second(given), dense.second(given))
    blocks = [Block(name, (name,), name, chained=False) for name in ("first", "second")]
    mend_singles(Aim(LineFamily(), slim, WHOLE), blocks, dense, slim, images * 50, 50)
    assert F.mse_loss(slim.second(given), dense.second(given)) < 0.9 * error
    assert all(torch.equal(tensor, before[f"first.{name}"]) for name, tensor in slim.first.state_dict().items())
    assert unchanged(dense, own)
    assert not any(module._forward_hooks for module in dense.modules())
