import json
from pathlib import Path

import pytest

from greedyprune import UserError
from greedyprune.cfgs import Cfgs, check_cfgs, full_cfgs, parse_cfgs

TEXT = "[[[152, 416], [232, 1408]], [[8, 136, 544], [184, 192, 1216], [240, 168, 1920]]]"
CFGS = Cfgs(((152, 416), (232, 1408)), ((8, 136, 544), (184, 192, 1216), (240, 168, 1920)))
DENSE = full_cfgs(2, 3, 256, 2048)
PUBLISHED = Path(__file__).parents[1] / "cfgs"


@pytest.mark.parametrize(
    "given",
    [
        TEXT,
        f"  {TEXT}\n",
        TEXT.replace(" ", ""),
        TEXT.split(),
        [TEXT],
        json.loads(TEXT),
        (((152, 416), (232, 1408)), ((8, 136, 544), (184, 192, 1216), (240, 168, 1920))),
        CFGS,
    ],
    ids=["quoted", "spaces around", "no spaces", "words", "one word", "lists", "tuples", "parsed"],
)
def test_every_way_to_give_a_width_list_is_read(given):
    assert parse_cfgs(given) == CFGS


def test_what_is_printed_is_read_back():
    assert str(CFGS) == TEXT
    assert parse_cfgs(str(CFGS)) == CFGS
    assert CFGS.to_list() == json.loads(TEXT)


@pytest.mark.parametrize("name", ["gp", "mgp"])
def test_published_lists_fit_the_published_model(name):
    cfgs = parse_cfgs((PUBLISHED / f"dn_detr_r50_{name}.json").read_text())
    assert check_cfgs(cfgs, full_cfgs(6, 6, 256, 2048), heads=8) is cfgs


def test_widths_go_by_site_front_to_back():
    names = list(CFGS.widths())
    assert names[:3] == ["encoder.0.attn", "encoder.0.ffn", "encoder.1.attn"]
    assert names[-3:] == ["decoder.2.self", "decoder.2.cross", "decoder.2.ffn"]
    changed = CFGS.replace({"encoder.1.ffn": 32, "decoder.0.cross": 16})
    assert changed.encoder[1] == (232, 32)
    assert changed.decoder[0] == (8, 16, 544)
    assert changed.replace({"encoder.1.ffn": 1408, "decoder.0.cross": 136}) == CFGS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", ["reading stops at character 1"]),
        ("[[[152, 416], [232, 1408]]", ["reading stops at character"]),
        ("[[[152 416]]]", ["character 8", "416"]),
        ("[" * 100_000, ["not a list"]),
        (f"[[[152, {'9' * 5000}]], [[8, 136, 544]]]", ["not a list"]),
        ("152", ["152", "needs 2"]),
        ("{}", ["needs 2"]),
        ("[[[152, 416]]]", ["1 parts"]),
        ("[[[152, 416]], [[8, 136, 544]], [[3]], []]", ["4 parts", "needs 2"]),
        ("[[[152, 416]], [[8, 136, 544]], []]", ["backbone part is []", "per block"]),
        ("[[[152, 416]], [[8, 136, 544]], [64]]", ["backbone block 0 is 64", "[conv1]"]),
        ("[[[152, 416]], [[8, 136, 544]], [[64], [64, 64, 64]]]", ["backbone block 1 is [64, 64, 64]"]),
        ("[[[152, 416]], [[8, 136, 544]], [[64], [64, 0]]]", ["backbone block 1", "conv2 is 0"]),
        ("[[], [[8, 136, 544]]]", ["encoder part is []"]),
        ("[[[152, 416]], 7]", ["decoder part is 7"]),
        ("[[152, 416], [[8, 136, 544]]]", ["encoder layer 0 is 152"]),
        ("[[[[152, 416]]], [[8, 136, 544]]]", ["encoder layer 0 has 1 numbers", "expected 2"]),
        ("[[[152, 416], [232]], [[8, 136, 544]]]", ["encoder layer 1 has 1 numbers", "expected 2"]),
        ("[[[152, 416]], [[8, 136, 544], [8, 136]]]", ["decoder layer 1 has 2 numbers", "expected 3"]),
        ("[[[152, 416.5]], [[8, 136, 544]]]", ["encoder layer 0", "ffn is 416.5"]),
        ("[[[152, true]], [[8, 136, 544]]]", ["encoder layer 0", "ffn is True"]),
        ("[[[152, NaN]], [[8, 136, 544]]]", ["encoder layer 0", "ffn is nan"]),
        ("[[[0, 416]], [[8, 136, 544]]]", ["encoder layer 0", "attn is 0"]),
        ("[[[152, 416]], [[8, -8, 544]]]", ["decoder layer 0", "cross is -8"]),
        ('[[[152, "416"]], [[8, 136, 544]]]', ["encoder layer 0", "ffn is '416'"]),
        (None, ["None"]),
    ],
)
def test_a_malformed_list_is_refused_with_the_place(given, words):
    with pytest.raises(UserError) as error:
        parse_cfgs(given)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "given", ["", "[[[152, 416]]]", "[[[152, 416]], 7]", "[[7], [[8, 136, 544]]]", "[[[0, 9]], [[8, 8, 8]]]"]
)
def test_a_message_names_what_was_given(given):
    for source in ("--widths", "cfgs"):
        with pytest.raises(UserError, match=f"^{source}"):
            parse_cfgs(given, source)
    for value in (TEXT, CFGS):
        cfgs = parse_cfgs(value, "--widths")
        with pytest.raises(UserError, match=f"^{'--widths' if value is TEXT else 'cfgs'}"):
            check_cfgs(cfgs, full_cfgs(2, 3, 128, 2048), heads=8)
        assert cfgs == CFGS


@pytest.mark.parametrize("before", ["", "[[[152, 416]], ", "1 or "])
def test_text_is_never_evaluated(tmp_path, before):
    trap = tmp_path / "trap"
    with pytest.raises(UserError, match="not a list"):
        parse_cfgs(f"{before}__import__('os').system('touch {trap}')")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (CFGS.replace({"encoder.1.attn": 233}), ["encoder layer 1", "attn width 233", "the 8 heads"]),
        (CFGS.replace({"decoder.2.cross": 4}), ["decoder layer 2", "cross width 4", "the 8 heads"]),
        (CFGS.replace({"decoder.0.self": 264}), ["decoder layer 0", "self width 264", "dense model's 256"]),
        (CFGS.replace({"encoder.0.ffn": 2049}), ["encoder layer 0", "ffn width 2049", "dense model's 2048"]),
        (Cfgs(CFGS.encoder[:1], CFGS.decoder), ["1 encoder layers", "the model has 2"]),
        (Cfgs(CFGS.encoder, CFGS.decoder * 2), ["6 decoder layers", "the model has 3"]),
    ],
)
def test_widths_that_do_not_fit_the_model_are_refused_with_both_numbers(given, words):
    with pytest.raises(UserError) as error:
        check_cfgs(given, DENSE, heads=8)
    for word in words:
        assert word in str(error.value)


def test_where_heads_leave_whole_an_attention_width_is_a_number_of_heads():
    whole = Cfgs(((32, 417), (256, 9)), ((64, 96, 3), (128, 160, 5), (192, 224, 7)))
    assert check_cfgs(whole, DENSE, heads=8, unit=32) is whole
    with pytest.raises(UserError, match="layer 1: cross width 168 is not a multiple of the 32 channels of a head"):
        check_cfgs(whole.replace({"decoder.1.cross": 168}), DENSE, heads=8, unit=32)


def test_ffn_widths_need_not_be_multiples_of_the_heads():
    assert check_cfgs(CFGS.replace({"encoder.0.ffn": 417}), DENSE, heads=8)


BOTTLENECKS = ((64, 64), (128, 128))
WHOLE = full_cfgs(1, 1, 256, 2048, BOTTLENECKS)
THREE = "[[[152, 416]], [[8, 136, 544]], [[48, 64], [128, 5]]]"


def test_a_third_part_holds_the_widths_of_a_backbone_that_is_not_dense():
    cfgs = parse_cfgs(THREE)
    assert cfgs.backbone == ((48, 64), (128, 5))
    assert str(cfgs) == THREE
    checked = check_cfgs(cfgs, WHOLE, heads=8)
    assert checked == cfgs
    assert list(checked.widths()) == [name for name in checked.widths("all") if not name.startswith("backbone")]
    assert checked.widths("backbone") == {
        "backbone.0.conv1": 48,
        "backbone.0.conv2": 64,
        "backbone.1.conv1": 128,
        "backbone.1.conv2": 5,
    }
    assert parse_cfgs("[[[152, 416]], [[8, 136, 544]], [[48], [96]]]").backbone == ((48,), (96,))


def test_two_parts_mean_a_dense_backbone_however_it_was_said():
    said = parse_cfgs("[[[152, 416]], [[8, 136, 544]], [[64, 64], [128, 128]]]")
    checked = check_cfgs(said, WHOLE, heads=8)
    assert str(checked) == "[[[152, 416]], [[8, 136, 544]]]"
    assert checked == check_cfgs(parse_cfgs(str(checked)), WHOLE, heads=8) == parse_cfgs(str(checked))
    assert list(checked.widths("backbone").values()) == [64, 64, 128, 128]
    slim = checked.replace({"backbone.1.conv1": 7})
    assert slim.backbone == ((64, 64), (7, 128))
    assert slim.replace({"backbone.1.conv1": 128}) == checked


def test_a_site_that_no_model_named_cannot_be_replaced():
    with pytest.raises(ValueError, match=r"backbone\.0\.conv1"):
        CFGS.replace({"backbone.0.conv1": 8})


@pytest.mark.parametrize(
    ("backbone", "dense", "words"),
    [
        ("[[48, 64]]", WHOLE, ["1 backbone blocks, the model has 2"]),
        ("[[48, 64], [128]]", WHOLE, ["backbone block 1 has 1 numbers ([128])", "2: conv1, conv2"]),
        ("[[48, 64], [128, 129]]", WHOLE, ["backbone block 1: conv2 width 129", "dense model's 128"]),
        ("", WHOLE.replace({"backbone.0.conv2": 9}), ["backbone block 0: conv2 width 64", "9", "two parts mean"]),
    ],
)
def test_backbone_widths_that_do_not_fit_are_refused_with_both_numbers(backbone, dense, words):
    cfgs = parse_cfgs(f"[[[152, 416]], [[8, 136, 544]]{', ' + backbone if backbone else ''}]")
    with pytest.raises(UserError) as error:
        check_cfgs(cfgs, dense, heads=8)
    for word in words:
        assert word in str(error.value)
