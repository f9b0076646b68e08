"""Rounds: the schedules, what has left stays away, and a run that was interrupted ends as one that was not."""

import itertools
from pathlib import Path

import pytest
import torch

from greedyprune import UserError
from greedyprune.classical import METHODS, Pruned, Subject
from greedyprune.classical.held import held
from greedyprune.classical.iterative import Rounds, RoundsFolder, run
from greedyprune.classical.weights import weights_of

from ..helpers.engine import GRID, bits, subject


class Trainer:
    """A few steps towards an answer of zeros."""

    def __init__(self, one, stop: int = 0) -> None:
        self.one, self.stop, self.seen = one, stop, []

    def __call__(self, model: torch.nn.Module, pruned: Pruned, number: int) -> torch.nn.Module:
        if number == self.stop:
            raise KeyboardInterrupt
        self.seen.append((number, sum(int((~each).sum()) for each in pruned.kept.values())))
        model.requires_grad_(True).train()
        with held(model, pruned.kept):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for _ in range(2):
                optimizer.zero_grad()
                answer = self.one.family.answer(model, self.one.family.inputs(model, self.one.images))
                answer.logits.square().mean().backward()
                optimizer.step()
        return model


def test_schedules_end_at_the_amount_and_the_polynomial_one_begins_fast() -> None:
    linear, cubic = (Rounds(METHODS["weight"], 0.8, 4, each) for each in ("linear", "polynomial"))
    assert [linear.amount_after(n) for n in range(5)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [cubic.amount_after(n) for n in range(5)] == pytest.approx(
        [0, 0.8 * (1 - 0.75**3), 0.8 * (1 - 0.5**3), 0.8 * (1 - 0.25**3), 0.8]
    )
    assert [Rounds(METHODS["layers"], 2, 4, "linear").amount_after(n) for n in range(5)] == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("kind", [GRID, "dn_detr"])
def test_zeros_of_a_round_are_zeros_of_the_next_and_the_last_has_the_whole_share(kind: str) -> None:
    one = subject(kind)
    found: list[dict[str, torch.Tensor]] = []
    trainer = Trainer(one)

    def train(model, pruned, number):
        result = trainer(model, pruned, number)
        found.append({n: each == 0 for n, each in weights_of(Subject(one.family, result)).items()})
        return result

    run(Subject(one.family, one.model), Rounds(METHODS["weight"], 0.8, 3), train)
    total = sum(each.numel() for each in found[0].values())
    shares = [sum(int(each.sum()) for each in zero.values()) / total for zero in found]
    assert shares == pytest.approx([0.8 * (1 - (2 / 3) ** 3), 0.8 * (1 - (1 / 3) ** 3), 0.8], abs=0.01)
    for before, after in itertools.pairwise(found):
        assert all((after[name] | ~zero).all() for name, zero in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["filter_l1", "filter_global", "layers"])
def test_cuts_add_up_to_the_share_of_the_dense_model(name: str) -> None:
    one = subject("dn_detr")
    about, amount = Subject(one.family, one.model), 2 if name == "layers" else 0.6
    slim = run(about, Rounds(METHODS[name], amount, 3, "linear"), Trainer(one))
    at_once = METHODS[name].apply(about, amount)
    widths, expected = ({s.name: s.full for s in one.family.sites(model)} for model in (slim, at_once))
    if name == "filter_global":  # which filters of which layer depends on the weights
        assert sum(widths.values()) == pytest.approx(sum(expected.values()), rel=0.1)
        assert sum(widths.values()) < sum(site.full for site in one.sites)
    else:
        assert widths == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "stop"),
    [(GRID, "weight", 1), (GRID, "filter_l1", 2), (GRID, "weight", 3), ("dn_detr", "weight", 2)],
)
def test_an_interrupted_run_goes_on_after_its_last_round_and_ends_the_same(
    kind: str, name: str, stop: int, tmp_path: Path
) -> None:
    one = subject(kind)
    about, rounds = Subject(one.family, one.model), Rounds(METHODS[name], 0.6, 3)

    def store(folder: str) -> RoundsFolder:
        return RoundsFolder(one.family, tmp_path / folder, {"rounds": 3})

    straight = run(about, rounds, Trainer(one), store("straight"))
    with pytest.raises(KeyboardInterrupt):
        run(about, rounds, Trainer(one, stop), store("stopped"))
    trainer = Trainer(one)
    resumed = run(about, rounds, trainer, store("stopped"))
    assert [number for number, _ in trainer.seen] == list(range(stop, 4))
    one_, other = bits(straight), bits(resumed)
    assert one_.keys() == other.keys()
    assert all(torch.equal(one_[key], other[key]) for key in one_)
    done = Trainer(one)
    run(about, rounds, done, store("stopped"))
    assert done.seen == []


def test_what_makes_no_sense_and_a_folder_of_other_rounds_are_refused(tmp_path: Path) -> None:
    method, one = METHODS["weight"], subject(GRID)
    with pytest.raises(UserError, match="schedule 'cubic' is unknown; choose one of polynomial, linear"):
        Rounds(method, 0.5, schedule="cubic")
    with pytest.raises(UserError, match="rounds is 0, it must be a whole number of at least 1"):
        Rounds(method, 0.5, rounds=0)
    with pytest.raises(UserError, match="weight: the amount is 1"):
        Rounds(method, 1)
    RoundsFolder(one.family, tmp_path, {"amount": 0.5})
    RoundsFolder(one.family, tmp_path, {"amount": 0.5})
    with pytest.raises(UserError, match=r"holds rounds of other settings \(see rounds.json there\)"):
        RoundsFolder(one.family, tmp_path, {"amount": 0.6})
