"""Passes of small networks that do what makes it hard to go on from the middle."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.pruning.calls import Order
from greedyprune.pruning.marked import Missing
from greedyprune.pruning.replay import Replay, Tape
from greedyprune.sites import Change, installed


class Net(nn.Module):
    """Three linear layers, the middle one called twice, inside modules of their own."""

    def __init__(self, body: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.twice, self.last = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def added_to(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    y += x
    z = net.twice(y)
    z = net.twice(z)
    z += y
    return net.last(z) + y


def activated(net: Net, x: Tensor) -> Tensor:
    y = net.relu(net.first(x))
    return net.last(net.relu(net.twice(y) + y)) - net.twice(F.relu(y, inplace=True))


def written(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    y[:, 0] = 1
    z = net.twice(y)
    z[:, 1] += y[:, 1]
    torch.mul(z, y, out=z)
    return net.last(z)


def through_views(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    z = net.twice(y)
    y.view(-1)[3:].add_(1)
    a, b = z.split(2, dim=1)
    a.mul_(3)
    return net.last(z) + y + net.twice(b.repeat(1, 2))


def into_the_input(net: Net, x: Tensor) -> Tensor:
    x.div_(2)
    y = net.first(x)
    x += 1
    return net.last(y) * x


def numbers(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    z = net.twice(y)
    if (y.max() > z.mean()).item() and len(y) == y.shape[0] == y.size(0):
        z = z * int(y.argmax())
    return net.last(z) + (~(y > 0)).float() + torch.full_like(z, float(z.sum()))


def nothing_after(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    net.last(y)
    return torch.cat((net.twice(y) + 1, y.exp()))


BODIES = [added_to, activated, written, through_views, into_the_input, numbers, nothing_after]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_whatever_a_network_does_it_goes_on_as_it_was_written(body: Callable[[Net, Tensor], Tensor]) -> None:
    net = Net(body).eval()
    images = [torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with torch.no_grad():
        wanted = [net(image.clone()) for image in images]
        places = list(Order(net, net, images[0].clone()).starts)
        for place in places:
            for after in (False, True):
                replay = Replay(net, net)
                tapes = [replay.forwarded(Tape.of_inputs(image.clone()), place, after) for image in images]
                for _ in range(3):
                    for tape, answer in zip(tapes, wanted, strict=True):
                        assert torch.equal(replay.answer(tape), answer), (place, after)
                for later in places[places.index(place) + 1 :]:
                    if later not in tapes[0].values and not later[0].startswith(f"{place[0]}."):
                        assert torch.equal(replay.answer(replay.forwarded(tapes[1], later)), wanted[1]), (place, later)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_answers_from_a_tape_are_plain_and_have_their_graphs(body: Callable[[Net, Tensor], Tensor]) -> None:
    net = Net(body).eval()
    image = torch.randn(5, 4)
    replay = Replay(net, net)
    tape = replay.forwarded(Tape.of_inputs(image.clone()), ("last", 0))
    answer = replay.answer(tape)
    assert type(answer) is Tensor
    if body is not nothing_after:
        answer.sum().backward()
        assert net.last[0].weight.grad is not None
    assert net.first[0].weight.grad is None


def test_a_layer_that_is_skipped_is_answered_right_and_what_it_reads_more_is_noticed() -> None:
    def residual(net: Net, x: Tensor) -> Tensor:
        y = net.first(x)
        z = net.twice(y)
        # A layer that is not there is not called, and its input is what was read before it.
        return (
            z
            if not isinstance(net.last, nn.Identity) and z.mean() > 9
            else net.last(z)
            if isinstance(net.last, nn.Sequential)
            else y
        )

    net = Net(residual).eval()
    image = torch.randn(5, 4)
    replay = Replay(net, net)
    start = Tape.of_inputs(image)
    tape = replay.forwarded(start, ("last", 0))
    with installed(net, Change(settings={("", "last"): nn.Identity()})), torch.no_grad():
        wanted = net(image)
        with pytest.raises(Missing) as caught:
            replay.answer(tape)
        assert caught.value.leaves == {(("first", 0), 0)}
        replay.demand(caught.value)
        again = replay.forwarded(start, ("twice", 0))
        assert torch.equal(replay.answer(again), wanted)
    with torch.no_grad():
        tape = replay.forwarded(start, ("last", 0))
        assert torch.equal(replay.answer(tape), net(image))
        with installed(net, Change(settings={("", "last"): nn.Identity()})):
            assert torch.equal(replay.answer(tape), wanted)


def test_tensors_made_where_nothing_has_versions_are_inputs_like_others() -> None:
    net = Net(added_to).eval()
    with torch.inference_mode():
        image = torch.randn(5, 4)
        wanted = net(image.clone())
        replay = Replay(net, net)
        for place in (("twice", 0), ("last", 0)):
            tape = replay.forwarded(Tape.of_inputs(image), place)
            assert torch.equal(replay.answer(tape), wanted)
            assert torch.equal(replay.answer(tape), wanted)
