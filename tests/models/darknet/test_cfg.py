"""Cfg files are read as Darknet reads them, or refused by section and line."""

from pathlib import Path

import pytest
import torch

from greedyprune import UserError
from greedyprune.embedded import ASSETS
from greedyprune.models.darknet.cfg import Convolutional, Reorg, Route, Shortcut, load_cfg, read_cfg
from greedyprune.models.darknet.cfg_text import cfg_text
from greedyprune.models.darknet.files import VOC_NAMES, find_cfg, find_layers
from greedyprune.models.darknet.network import Darknet

from .golden import TINY
from .small_darknet import TEXT, small_cfg


def refused(old, new):
    assert old in TEXT
    with pytest.raises(UserError) as error:
        read_cfg(TEXT.replace(old, new, 1), "net.cfg")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "parameters", "convolutions"), [("yolov2-voc", 50_655_389, 23), ("tiny-yolo-voc", 15_861_773, 9)]
)
def test_the_shipped_files_have_the_published_sizes(name, parameters, convolutions):
    cfg, names = find_layers(ASSETS / f"{name}.cfg", None, None)
    with torch.device("meta"):
        model = Darknet(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert (len(cfg.convolutions), cfg.stride, cfg.height, cfg.width) == (convolutions, 32, 416, 416)
    assert names == VOC_NAMES


def test_the_passthrough_of_yolov2_comes_before_the_deep_maps():
    cfg = load_cfg(ASSETS / "yolov2-voc.cfg")
    reorg = next(number for number, layer in enumerate(cfg.layers) if isinstance(layer, Reorg))
    joined = cfg.layers[reorg + 1]
    assert joined == Route((reorg, reorg - 3))
    assert [cfg.channels()[source] for source in joined.sources] == [256, 1024]
    skip = cfg.layers[reorg - 2]
    assert isinstance(skip, Route)
    assert (cfg.channels()[skip.sources[0]], cfg.strides()[skip.sources[0]]) == (512, 16)


def test_sources_are_counted_back_or_from_the_first_layer():
    cfg = small_cfg()
    assert cfg.layers[3] == Shortcut(1, "leaky")
    assert cfg.layers[7] == Route((3,))
    assert cfg.layers[9] == Route((8, 6))
    assert read_cfg(TEXT.replace("layers=3", "layers=0").replace("layers=-1,-3", "layers=-3"), "x").layers[
        7
    ].sources == (0,)


def test_what_is_written_is_read_as_the_same_layers():
    for cfg in (small_cfg(), load_cfg(TINY / "tiny.cfg"), load_cfg(ASSETS / "yolov2-voc.cfg")):
        assert read_cfg(cfg_text(cfg), "again") == cfg


def test_blanks_comments_and_capitals_mean_nothing():
    text = TEXT.replace("stride=2\npad=1", "stride = 2 # half\n; nothing\npad= 1").replace("[net]", "[Net]")
    assert read_cfg(text, "x") == small_cfg()


def test_other_classes_and_widths_change_the_last_and_the_given_filters():
    cfg = small_cfg().for_classes(7)
    assert (cfg.filters, cfg.region.classes) == ((8, 8, 12, 24), 7)
    assert small_cfg().with_filters((4, 4, 6, 14)).filters == (4, 4, 6, 14)
    assert isinstance(cfg.layers[0], Convolutional)


def test_every_refusal_names_section_and_line():
    assert refused("[shortcut]", "[dropout]") == (
        "net.cfg, line 27, [dropout]: is not supported; supported are convolutional, maxpool, route, shortcut, reorg "
        "and region"
    )
    assert refused("groups=2", "dilation=2").startswith(
        "net.cfg, line 24, [convolutional]: dilation=2 is not understood"
    )
    assert refused("activation=relu", "activation=mish").startswith(
        "net.cfg, line 25, [convolutional]: activation=mish"
    )
    assert "line 28, [shortcut]: from=-9 names layer -6" in refused("from=-2", "from=-9")
    assert "line 8, [convolutional]: filters=many is not a whole number" in refused("filters=8", "filters=many")
    assert "line 24, [convolutional]: groups=3 divides" in refused("groups=2", "groups=3")
    assert "[convolutional]: a kernel of 3 needs a padding of 1 (pad=1), it has 0" in refused("pad=1", "pad=0")
    assert "[region]: anchors=1,1, 2.5 has 3 numbers; num=2 anchors have 4" in refused("2.5,2", "2.5")
    assert "[convolutional]: has 15 filters; 2 anchors of 2 classes need 14" in refused("filters=14", "filters=15")
    assert "[route]: joins maps of different sizes" in refused("layers=-1,-3", "layers=-1,0")
    added = "[shortcut]\nfrom=-2\n\n[maxpool]\nsize=2\nstride=1\n"
    assert "[shortcut]: adds 8 channels to 12" in refused("[maxpool]\nsize=2\nstride=1\n", added)
    assert "net.cfg, line 62: 'nonsense' is neither" in refused("[region]", "nonsense\n[region]")
    assert "first in line 2" in refused("height=32", "width=32")
    assert "softmax=0 is not supported" in refused("softmax=1", "softmax=0")
    assert "must be multiples of 8" in refused("width=64", "width=60")


def test_a_file_without_net_or_region_is_no_detector():
    assert "does not begin with [net]" in refused("[net]", "[convolutional]")
    with pytest.raises(UserError, match=r"x has no \[region\] at its end"):
        read_cfg(TEXT.partition("[region]")[0], "x")
    with pytest.raises(UserError, match=r"stands after \[region\]"):
        read_cfg(f"{TEXT}[reorg]\n", "x")


def test_a_cfg_is_found_by_path_by_name_or_beside_the_weights(tmp_path):
    weights = tmp_path / "net.weights"
    with pytest.raises(UserError, match="do not tell their layers"):
        find_cfg(None, weights)
    (tmp_path / "net.cfg").write_text(TEXT)
    assert find_cfg(None, weights) == tmp_path / "net.cfg"
    assert find_cfg(None, tmp_path / "yolov2-voc.weights").parent == ASSETS
    assert find_cfg(Path("yolov2-voc"), weights) == find_cfg(Path("yolov2-voc.cfg"), None) == ASSETS / "yolov2-voc.cfg"
    with pytest.raises(UserError, match=r"shipped are tiny-yolo-voc.cfg"):
        find_cfg(tmp_path / "none.cfg", weights)


def test_names_are_one_a_line_and_as_many_as_classes(tmp_path):
    (tmp_path / "net.cfg").write_text(TEXT)
    names = tmp_path / "net.names"
    names.write_text("box\n\ndisc\n")
    assert find_layers(tmp_path / "net.cfg", names, None)[1] == ("box", "disc")
    assert find_layers(tmp_path / "net.cfg", None, None)[1] == ()
    names.write_text("box\n")
    with pytest.raises(UserError, match=r"has 1 names, and .* has 2 classes"):
        find_layers(tmp_path / "net.cfg", names, None)
