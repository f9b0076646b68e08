"""Channels are followed from their writers to their readers."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.families.channels import Found, convolution_sites
from greedyprune.sites import Reader

from ..helpers.convolutional import NETS, block, convolutional

FOUND = {kind: (one := convolutional(kind)).family.found(one.model) for kind in NETS}


def units(found: Found) -> dict[str, tuple[int, int]]:
    """The full width of every site, and what stays together."""
    return {site.name: (site.full, site.unit) for site in found.sites}


def places(found: Found, site: str, tensor: str, dim: int) -> tuple[tuple[int, ...], ...]:
    own = next(each for each in found.sites if each.name == site)
    return next(part.places for part in own.slices if (part.name, part.dim) == (tensor, dim))


def test_every_convolution_but_the_last_is_a_site_with_all_its_readers() -> None:
    found = FOUND["reorganised"]
    assert found.unpruned == {"head": "is what the model answers"}
    readers = {site.name: [reader.module for reader in site.readers] for site in found.sites}
    assert readers == {
        "first.0": ["second.0"],
        "second.0": ["third.0", "aside.0"],
        "third.0": ["last.0"],
        "aside.0": ["last.0"],
        "last.0": ["head"],
    }
    assert found.sites[0].readers == (Reader("second.0", "second.1"),)
    assert found.sites[-1].readers == (Reader("head"),)


def test_a_concatenation_puts_sites_side_by_side_and_a_reorganisation_puts_a_channel_in_four_places() -> None:
    found = FOUND["reorganised"]
    assert places(found, "aside.0", "last.0.weight", 1) == tuple((c, 8 + c, 16 + c, 24 + c) for c in range(8))
    assert places(found, "third.0", "last.0.weight", 1) == tuple((32 + c,) for c in range(24))


def test_a_rule_of_a_module_ties_what_its_order_mixes() -> None:
    found = FOUND["reorganised in fours"]
    assert units(found)["aside.0"] == (8, 4)
    assert places(found, "aside.0", "last.0.weight", 1)[1] == tuple(
        8 * phase + 4 + r for phase in range(4) for r in range(4)
    )


def test_shortcuts_tie_their_writers() -> None:
    found = FOUND["shortcuts"]
    assert [site.label for site in found.sites] == ["stem.0", "down.0 + outer.0 + same.0", "inner.0"]
    tied = found.sites[1]
    assert [(part.name, part.dim) for part in tied.slices if "same.0" in part.name] == [
        ("same.0.weight", 1),
        ("same.0.weight", 0),
    ]


def test_groups_bind_channels_and_depthwise_convolutions_remember_how_many_there_are() -> None:
    found = FOUND["grouped"]
    assert units(found) == {"stem.0:1": (8, 2), "stem.0:2": (4, 1), "groups.0": (24, 4), "last.0": (12, 4)}
    assert {(each.module, each.per) for each in found.sites[0].settings} == {
        ("depth.0", 1),
        ("twice", 2),
        ("both.0", 1),
    }


def test_halves_of_a_split_lose_the_same_number() -> None:
    assert units(FOUND["stages"]) == {"stem.0": (16, 1), "cv1.0": (16, 2), "m1.0": (6, 1), "cv2.0": (16, 1)}


def test_gates_and_scales_are_sliced_with_what_they_are_multiplied_with() -> None:
    found = FOUND["dense"]
    assert [site.label for site in found.sites] == ["stem + excite", "grow + excite", "squeeze", "down.0"]
    assert places(found, "stem", "scale", 0) == tuple((c,) for c in range(6, 18))
    assert found.sites[0].readers[0] == Reader("grow")  # the norm after it has other channels, too


class Stay(nn.Module):
    """One convolution, and something that reads it."""

    def __init__(self, reading: str) -> None:
        super().__init__()
        self.reading = reading
        self.first, self.linear, self.last = block(3, 8), nn.Linear(8 * 16, 4), nn.Conv2d(8, 4, 1)
        self.position = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.twin = nn.Conv2d(8, 4, 1)
        self.twin.weight = self.last.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.reading == "linear":
            return self.linear(x.flatten(1))
        if self.reading == "softmax":
            return self.last(x.softmax(1))
        if self.reading == "position":
            return self.last(x + self.position)
        if self.reading == "sigmoid":
            return self.last(x.sigmoid())
        if self.reading == "offset":
            return self.last(x + 1)
        if self.reading == "mean":
            return self.last(x * x.mean(1, keepdim=True))
        if self.reading == "written":
            y = torch.zeros(x.shape)
            y[:, :4] = x[:, 4:]
            return self.last(y)
        return self.last(x) + self.twin(x)


WHY = {
    "linear": "is flattened into linear",
    "softmax": "is read by _softmax",
    "position": "meets something that no convolution writes",
    "sigmoid": "is not zero where last reads it",
    "offset": "is not zero where last reads it",
    "mean": "is summed up by mean",
    "written": "is read by copy_",
    "twin": "is read by last, whose weights another module has, too",
}


@pytest.mark.parametrize("reading", WHY)
def test_what_cannot_be_followed_stays_and_says_why(reading: str) -> None:
    torch.manual_seed(0)
    model = Stay("" if reading == "twin" else reading).eval()
    if reading != "twin":
        model.twin = nn.Identity()
    found = convolution_sites(model, lambda: model(torch.zeros(1, 3, 4, 4)), part="x")
    assert found.sites == ()
    assert found.unpruned["first.0"] == WHY[reading]


def test_models_without_memory_are_followed_as_well() -> None:
    for kind in NETS:
        one = convolutional(kind)
        model = one.model.to("meta")
        found = convolution_sites(model, lambda m=model: m(torch.zeros(1, 3, 32, 32, device="meta")), part="x", step=4)
        assert [(s.name, s.full, s.slices) for s in found.sites] == [
            (s.name, s.full, s.slices) for s in FOUND[kind].sites
        ]


def test_what_depends_on_the_size_is_tied_by_passes_of_several_sizes() -> None:
    class Read(nn.Module):
        """Memory read as a map of other sides, which mixes channels at some sizes."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x.reshape(len(x), x.shape[1] // 2, 2 * x.shape[2], x.shape[3]))

    model = Read().eval()
    sizes = [torch.zeros(1, 3, side, side) for side in (2, 3)]
    found = convolution_sites(model, *(lambda x=x: model(x) for x in sizes), part="x")
    assert units(found) == {"first": (8, 2)}


@pytest.mark.parametrize(("name", "sites"), [("resnet18", 12), ("resnet50", 37)])
def test_published_backbones_have_the_sites_that_are_known(name: str, sites: int) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, name)().eval()
    found = convolution_sites(model, lambda: model(torch.zeros(1, 3, 64, 64, device="meta")), part="x")
    assert found.unpruned == {}
    assert len(found.sites) == sites


def test_a_mask_of_positions_is_no_obstacle() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.gelu(self.first(x)) * x.mean(1, keepdim=True) / 2)

    model = Hidden().eval()
    found = convolution_sites(model, lambda: model(torch.zeros(1, 3, 8, 8)), part="x")
    assert units(found) == {"first": (8, 1)}


class Numbered(nn.Module):
    """A split whose sizes stand in its code, beside one that goes by the number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 12, 1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.second(self.first(x).relu()).chunk(2, 1)
        one, other = self.third(torch.cat((one, other), 1)).split([6, 6], 1)
        return self.last(one * other)


def test_numbers_in_the_code_keep_a_site_dense_and_the_others_are_found() -> None:
    model = Numbered()
    found = convolution_sites(model, lambda: model(torch.zeros(1, 3, 4, 4)), part="x")
    assert units(found) == {"first": (12, 1), "second": (8, 2)}
    assert found.unpruned["third"].startswith("has its number of channels in the model's code: split_with_sizes")
    assert model.training
    assert model.first.weight.shape == (12, 3, 1, 1)


def test_what_fits_but_answers_otherwise_is_found_out() -> None:
    class Halves(nn.Module):
        """The channels of two halves in turn: with fewer channels the halves are others."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 12, 1, groups=1), nn.Conv2d(12, 2, 1)
            self.second = nn.Conv2d(12, 12, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.first(x).relu()).unflatten(1, (-1, 3)).transpose(1, 2).flatten(1, 2)
            return self.last(x[:, : x.shape[1]])

    torch.manual_seed(0)
    model, image = Halves().eval(), torch.rand(1, 3, 4, 4)
    found = convolution_sites(model, lambda: model(image), part="x")
    assert "second" not in units(found)
    assert found.unpruned["second"].startswith("has its number of channels in the model's code")
