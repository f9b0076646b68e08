"""The sites of Darknet's detectors, and their list form."""

import json
import random

import pytest
import torch

from greedyprune import UserError
from greedyprune.embedded import ASSETS
from greedyprune.families import family_of
from greedyprune.families.darknet_sites import darknet_sites
from greedyprune.models.darknet import Darknet, DarknetInfo
from greedyprune.models.darknet.cfg import load_cfg, read_cfg
from greedyprune.pruning.transplant import masked, shape_change, transplant
from greedyprune.sites import installed

from ..models.darknet.golden import FOLDER, TINY

VOC = load_cfg(ASSETS / "yolov2-voc.cfg")
ORDERS = ("plain", "darknet")
MIXED = """
[net]
height=64
width=64
[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
groups=12
activation=leaky
[convolutional]
batch_normalize=1
filters=8
size=1
stride=1
activation=leaky
[convolutional]
batch_normalize=1
filters=12
size=3
stride=1
pad=1
activation=linear
[shortcut]
from=-3
activation=leaky
[convolutional]
batch_normalize=1
filters=6
size=3
stride=1
pad=1
activation=relu
[route]
layers=-1,-2
[maxpool]
size=2
stride=1
[convolutional]
filters=14
size=1
stride=1
activation=linear
[region]
anchors=1,1,2,2
classes=2
num=2
coords=4
softmax=1
bias_match=1
"""


def voc(order: str = "plain") -> Darknet:
    with torch.device("meta"):
        return Darknet(VOC, DarknetInfo(reorg=order)).eval()


def stirred(model: Darknet) -> Darknet:
    """Random weights of which every layer keeps the size of what it gets, and norms that have a say."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 4:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=draw)
            elif name.endswith(("norm.weight", "running_var")):
                tensor.uniform_(0.5, 1.5, generator=draw)
            elif tensor.dim() == 1 and name != "anchors":
                tensor.normal_(0, 0.2, generator=draw)
    return model.eval()


def tiny(order: str) -> Darknet:
    """The small golden's layers, with as many filters before the reorganisation as Darknet's order needs."""
    return stirred(Darknet(load_cfg(TINY / "tiny.cfg").with_filters((4, 16, 16)), DarknetInfo(reorg=order)))


def drawn(sites, rng: random.Random) -> dict[str, list[int]]:
    kept = {}
    for site in sites:
        units = rng.sample(range(site.full // site.unit), rng.randint(site.least, site.full) // site.unit)
        kept[site.name] = sorted(unit * site.unit + channel for unit in units for channel in range(site.unit))
    return kept


@pytest.mark.parametrize("order", ORDERS)
def test_yolov2_has_a_site_for_every_convolution_but_the_last(order: str) -> None:
    sites = darknet_sites(voc(order))
    assert [site.full for site in sites] == list(VOC.filters[:-1])
    assert [site.unit for site in sites] == [4 if order == "darknet" and number == 20 else 1 for number in range(22)]
    readers = [len(site.readers) for site in sites]
    assert readers == [2 if number == 12 else 1 for number in range(22)]
    (last,) = sites[20].readers
    weight = next(part for part in sites[20].slices if part.output and part.name == last.weight)
    if order == "plain":
        assert weight.places[5] == (5, 69, 133, 197)
    else:  # filters 4 g .. 4 g + 3 become the channels (16 p + g) 4 + r
        assert weight.places[5] == tuple((16 * p + 5) * 4 + r for p in range(4) for r in range(4))
    # After the reorganised ones come those of convolution 20.
    assert next(part for part in sites[19].slices if part.name == last.weight).places[0] == (256,)


def compare(model: Darknet, side: int, kept: dict[str, list[int]], tolerance: float) -> Darknet:
    family = family_of(model)
    slim = transplant(family, model, kept)
    image = torch.rand(1, 3, side, 2 * side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = masked(family, model, kept)(image)
        assert (slim(image) - wanted).abs().max() < tolerance * wanted.abs().max()
        if any(site.full > len(kept[site.name]) for site in family.sites(model)):
            assert (model(image) - wanted).abs().max() > 1e-2 * wanted.abs().max()
    return slim


@pytest.mark.parametrize("order", ORDERS)
def test_slim_answers_as_masked_and_its_file_opens_as_it_is(order: str, tmp_path) -> None:
    rng = random.Random(3)
    model = tiny(order)
    family, side = family_of(model), 3 * model.cfg.stride
    for number in range(6):
        slim = compare(model, side, drawn(family.sites(model), rng), 1e-5)
        again = compare(slim, side, drawn(family.sites(slim), rng), 1e-5) if number < 2 else slim
        family.save(again, tmp_path / "slim.safetensors")
        image = torch.rand(1, 3, side, side)
        with torch.no_grad():
            assert torch.equal(family.load(tmp_path / "slim.safetensors")(image), again(image))


def test_shortcuts_and_depthwise_convolutions_are_lossless_and_are_stored(tmp_path) -> None:
    model = stirred(Darknet(read_cfg(MIXED, "here")))
    family, rng = family_of(model), random.Random(1)
    assert [(site.label, site.full) for site in family.sites(model)] == [
        ("layers.0.conv + layers.3.conv", 12),
        ("layers.2.conv", 8),
        ("layers.5.conv", 6),
    ]
    for _ in range(4):
        slim = compare(model, 32, drawn(family.sites(model), rng), 1e-5)
        family.save(slim, tmp_path / "slim.safetensors")
        loaded = family.load(tmp_path / "slim.safetensors")
        assert loaded.layers[1].conv.groups == slim.filters[0] == slim.filters[1] == slim.filters[3]
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(loaded(image), slim(image))


@pytest.mark.parametrize("part", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("order", ORDERS)
def test_yolov2_is_lossless(order: str, part: int) -> None:
    filters = [width // part for width in VOC.filters[:-1]]
    model = stirred(Darknet(VOC.with_filters([*filters, 125]), DarknetInfo(reorg=order)))
    compare(model, 96, drawn(darknet_sites(model), random.Random(0)), 1e-4)


@pytest.mark.parametrize("share", ["20", "40", "60", "80"])
def test_parameters_of_physical_cuts_are_the_published_ones(share: str) -> None:
    published = json.loads((FOLDER / "published_counts.json").read_text())["published"][share]
    filters = published["an_example_of_kept_filters_not_the_published_one"]
    model = voc()
    family = family_of(model)
    widths = family.layout(model).parse(filters)
    with installed(model, shape_change(family.sites(model), model.state_dict(), widths)):
        assert model.filters == tuple(filters)
        assert sum(p.numel() for p in model.parameters()) == published["what_that_example_has_when_cut_physically"]
        assert family.layout(model).to_list(widths) == filters


def test_lists_are_read_and_written() -> None:
    model = Darknet(read_cfg(MIXED, "here"))
    layout = family_of(model).layout(model)
    dense = [12, 12, 8, 12, 6, 14]
    assert layout.to_list(layout.parse({})) == layout.to_list(layout.parse(dense)) == dense
    cut = layout.parse("[5, 5, 3, 5, 6, 14]")
    assert list(cut.values()) == [5, 3, 6]
    assert layout.to_list(cut) == [5, 5, 3, 5, 6, 14]
    assert layout.parse(["[5,", "5,", "3,", "5,", "6,", "14]"]) == cut
    fours = family_of(model).layout(voc("darknet"))
    halves = [*(width // 2 for width in VOC.filters[:-1]), 125]
    assert fours.to_list(fours.parse(halves)) == halves


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[5,", "--cfgs is no JSON; expected [width per convolution]"),
        ([5, 5], "--cfgs has 2 widths, the detector has 6 convolutions"),
        ([5, 5, 3, 6, 6, 14], "convolution 4 is 6, and what is added to it or read with it makes it 5"),
        ([12, 12, 8, 12, 6, 13], "convolution 6 is 13; its channels cannot be pruned, it has 14"),
        ([12, 12, 8, 12, 0, 14], "convolution 5 is 0"),
        ([1, 1, 8, 1, 6, 14], "layers.0.conv"),
        (7, "--cfgs is 7, expected [width per convolution]"),
        ({"x": 3}, "--cfgs names site 'x'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(given, words: str) -> None:
    model = Darknet(read_cfg(MIXED, "here"))
    with pytest.raises(UserError) as refused:
        family_of(model).layout(model).parse(given)
    assert words in str(refused.value)


def test_fours_of_the_passthrough_stay_together_in_lists() -> None:
    model = voc("darknet")
    filters = [*VOC.filters[:20], 30, 1024, 125]
    with pytest.raises(UserError, match="convolution 21 is 30, and 4 of its channels stay together"):
        family_of(model).layout(model).parse(filters)


def test_a_slim_detector_knows_its_dense_widths() -> None:
    model = tiny("darknet")
    family = family_of(model)
    slim = transplant(family, model, {family.sites(model)[0].name: (0, 2)})
    assert family.layout(slim).parse({}) == {site.name: site.full for site in family.sites(model)}
    assert family.is_dense(model)
    assert not family.is_dense(slim)
