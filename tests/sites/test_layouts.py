"""Lists of widths: what is read, what is written, and what is refused."""

import json
from pathlib import Path

import pytest

from greedyprune import UserError
from greedyprune.models.options import DeformableOptions, DNDeformableOptions, DNDETROptions

TEXT = "[[[152, 416], [232, 1408]], [[8, 136, 544], [184, 192, 1216], [240, 168, 1920]]]"
OPTIONS = DNDETROptions(enc_layers=2, dec_layers=3, backbone="small", num_queries=50)
LAYOUT = OPTIONS.layout
SMALL = [[48], [48], [96], [96], [144], [144]]
PUBLISHED = Path(__file__).parents[2] / "cfgs"


def shape(**changes):
    return DNDETROptions(**{**OPTIONS.to_dict(), **changes}).layout


def refused(given, layout=LAYOUT):
    """The one line with which widths are refused."""
    with pytest.raises(UserError) as error:
        layout.parse(given)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


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
        [*json.loads(TEXT), {}],
        [*json.loads(TEXT), SMALL],
        [*json.loads(TEXT), {"queries": 50, "encoder.0.attn": 152, "decoder.2": 1}],
        LAYOUT.parse(TEXT),
        json.dumps(LAYOUT.parse(TEXT)),
    ],
    ids=[
        "quoted", "spaces around", "no spaces", "words", "one word", "lists", "tuples", "an empty object",
        "the backbone", "an object that says the same", "by name", "text by name",
    ],
)  # fmt: skip
def test_every_way_to_give_widths_is_read(given):
    assert LAYOUT.to_text(LAYOUT.parse(given)) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT[:-1] + ", [[48], [8], [96], [1], [144], [144]]]",
        TEXT[:-1] + ', {"encoder.query_scale": 7}]',
        TEXT[:-1] + ', {"encoder.query_scale": 1, "queries": 40, "decoder.ref_anchor_head": 64, "boxes.1": 3}]',
        TEXT[:-1] + ', [[48], [8], [96], [1], [144], [144]], {"queries": 1}]',
        '[[[0, 0], [0, 0]], [[0, 0, 0], [184, 192, 1216], [0, 0, 0]], {"queries": 40}]',
    ],
)
def test_what_is_written_is_what_was_read(text):
    widths = LAYOUT.parse(text)
    assert LAYOUT.to_text(widths) == text
    assert LAYOUT.to_list(widths) == json.loads(text)
    assert LAYOUT.parse(widths) == widths
    assert list(widths) == list(LAYOUT.dense)


@pytest.mark.parametrize("name", ["gp", "mgp"])
def test_published_lists_fit_the_published_model(name):
    text = (PUBLISHED / f"dn_detr_r50_{name}.json").read_text()
    layout = DNDETROptions().layout
    assert layout.to_list(layout.parse(text)) == json.loads(text)


def test_sites_are_named_in_the_order_in_which_an_image_meets_them():
    assert list(shape(enc_layers=1, dec_layers=1).dense) == [
        *(f"backbone.{number}.conv1" for number in range(6)),
        "encoder.query_scale",
        "encoder.0",
        "encoder.0.attn",
        "encoder.0.ffn",
        "queries",
        "decoder.query_scale",
        "decoder.ref_point_head",
        "decoder.ref_anchor_head",
        "decoder.0",
        "decoder.0.self",
        "decoder.0.cross",
        "decoder.0.ffn",
        "boxes.0",
        "boxes.1",
    ]
    dense = OPTIONS.dense_widths()
    assert [dense[name] for name in ("backbone.2.conv1", "encoder.1", "encoder.1.attn", "decoder.2.ffn")] == [
        96, 1, 256, 2048
    ]  # fmt: skip
    assert (dense["queries"], dense["decoder.ref_point_head"], dense["boxes.1"]) == (50, 256, 256)


@pytest.mark.parametrize(
    ("options", "heads"),
    [
        (DeformableOptions(dec_layers=2), ["boxes.0", "boxes.1"]),
        (
            DeformableOptions(dec_layers=2, with_box_refine=True),
            ["boxes.0.0", "boxes.0.1", "boxes.1.0", "boxes.1.1"],
        ),
        (
            DNDeformableOptions(dec_layers=1, two_stage=True),
            ["decoder.query_scale", "decoder.ref_point_head", "boxes.0.0", "boxes.0.1", "boxes.1.0", "boxes.1.1"],
        ),
    ],
)
def test_layers_that_refine_have_box_heads_of_their_own(options, heads):
    names = [name for name in options.dense_widths() if name.startswith("boxes") or "_" in name]
    assert names == heads


def test_a_layer_that_is_gone_takes_what_is_its_own_along():
    layout = DeformableOptions(enc_layers=1, dec_layers=2, with_box_refine=True).layout
    widths = layout.parse({"decoder.1": 0, "decoder.1.ffn": 64, "boxes.0.1": 8})
    assert {name: width for name, width in widths.items() if name.startswith(("decoder.1", "boxes"))} == {
        "decoder.1": 0, "decoder.1.self": 0, "decoder.1.cross": 0, "decoder.1.ffn": 0,
        "boxes.0.0": 256, "boxes.0.1": 8, "boxes.1.0": 0, "boxes.1.1": 0,
    }  # fmt: skip
    assert layout.to_text(widths) == '[[[256, 1024]], [[256, 256, 1024], [0, 0, 0]], {"boxes.0.1": 8}]'
    assert layout.parse(layout.to_text(widths)) == widths
    assert layout.parse({"decoder.1.self": 0, "decoder.1.cross": 0, "decoder.1.ffn": 0, "boxes.0.1": 8}) == widths


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", ["reading stops at character 1"]),
        ("[[[152, 416], [232, 1408]]", ["reading stops at character"]),
        ("[[[152 416]]]", ["character 8", "416"]),
        ("[" * 100_000, ["not a list"]),
        (f"[[[152, {'9' * 5000}]], [[8, 136, 544]]]", ["not a list"]),
        ("152", ["152", "needs 2"]),
        ("[]", ["needs 2"]),
        ("[{}]", ["0 parts", "needs 2"]),
        ("[[[152, 416]]]", ["1 parts"]),
        ("[[[152, 416]], [[8, 136, 544]], [[3]], []]", ["4 parts", "needs 2"]),
        ("[{}, [[152, 416]], [[8, 136, 544]]]", ["encoder part is a dict"]),
        ("[[[152, 416]], [[8, 136, 544]], []]", ["backbone part is []", "per block"]),
        ("[[[152, 416]], [[8, 136, 544]], [64, 1, 1, 1, 1, 1]]", ["backbone block 0 is 64", "[conv1]"]),
        ("[[[152, 416]], [[8, 136, 544]], [[48], [48, 64, 64], [], [], [], []]]", ["block 1", "3 numbers", "[48, 64"]),
        ("[[[152, 416]], [[8, 136, 544]], [[48], [0], [96], [96], [144], [144]]]", ["backbone block 1: conv1 is 0"]),
        ("[[], [[8, 136, 544]]]", ["encoder part is []"]),
        ("[[[152, 416]], 7]", ["decoder part is 7"]),
        ("[[152], [[8, 136, 544]]]", ["encoder layer 0 is 152"]),
        ("[[[[152, 416]]], [[8, 136, 544]]]", ["encoder layer 0 has 1 numbers", "expected 2"]),
        ("[[[152]], [[8, 136, 544]]]", ["encoder layer 0 has 1 numbers", "expected 2"]),
        ("[[[152, 416]], [[8, 136]]]", ["decoder layer 0 has 2 numbers", "expected 3"]),
        ("[[[152, 416.5]], [[8, 136, 544]]]", ["encoder layer 0", "ffn is 416.5"]),
        ("[[[152, true]], [[8, 136, 544]]]", ["encoder layer 0", "ffn is True"]),
        ("[[[152, NaN]], [[8, 136, 544]]]", ["encoder layer 0", "ffn is nan"]),
        ("[[[0, 416]], [[8, 136, 544]]]", ["encoder layer 0", "attn is 0", "zeros alone"]),
        ("[[[false, false]], [[8, 136, 544]]]", ["encoder layer 0", "attn is False"]),
        ("[[[152, 416]], [[8, -8, 544]]]", ["decoder layer 0", "cross is -8"]),
        ('[[[152, "416"]], [[8, 136, 544]]]', ["encoder layer 0", "ffn is '416'"]),
        ("[[[152, 416]], [[0, 0, 0]]]", ["no decoder layer", "at least 1 must stay"]),
        ('[[[152, 416]], [[8, 136, 544]], {"queries": 0}]', ["queries is 0"]),
        ('[[[152, 416]], [[8, 136, 544]], {"queries": null}]', ["queries is None"]),
        ('[[[152, 416]], [[8, 136, 544]], {"queries": 51}]', ["queries width 51", "dense model's 50"]),
        ('[[[152, 416]], [[8, 136, 544]], {"query": 5}]', ["'query'", "lacks", "decoder.ref_point_head"]),
        ('[[[152, 416]], [[8, 136, 544]], {"encoder.0.ffn": 9}]', ["says twice", "416 in the lists, 9 in the object"]),
        ('{"encoder.0": 2}', ["encoder layer 0 (encoder.0) is 2", "0 where it is gone"]),
        ('{"encoder.0.attn": 0}', ["encoder layer 0: attn is 0"]),
        ('{"decoder.ref_point_head": 257}', ["decoder: ref_point_head width 257", "dense model's 256"]),
        (None, ["None"]),
    ],
)
def test_malformed_widths_are_refused_with_the_place(given, words):
    line = refused(given, shape(enc_layers=1, dec_layers=1))
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "given",
    ["", "[[[152, 416]]]", "[[[152, 416]], 7]", "[[7], [[8, 136, 544]]]", "[[[0, 9]], [[8, 8, 8]]]", '{"a": 1}'],
)
def test_a_message_names_what_was_given(given):
    for source in ("--widths", "cfgs"):
        with pytest.raises(UserError, match=f"^{source}"):
            shape(enc_layers=1, dec_layers=1).parse(given, source)


@pytest.mark.parametrize("before", ["", "[[[152, 416]], ", "1 or "])
def test_text_is_never_evaluated(tmp_path, before):
    trap = tmp_path / "trap"
    assert "not a list" in refused(f"{before}__import__('os').system('touch {trap}')")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("232", "233", ["encoder layer 1", "attn width 233", "the 8 heads"]),
        ("168", "4", ["decoder layer 2", "cross width 4", "the 8 heads"]),
        ("[8,", "[264,", ["decoder layer 0", "self width 264", "dense model's 256"]),
        ("416", "2049", ["encoder layer 0", "ffn width 2049", "dense model's 2048"]),
        ("[[152, 416], ", "[", ["1 encoder layers", "the model has 2"]),
        ("1920]]", "1920], [8, 8, 8]]", ["4 decoder layers", "the model has 3"]),
    ],
)
def test_widths_that_do_not_fit_the_model_are_refused_with_both_numbers(old, new, words):
    line = refused(TEXT.replace(old, new))
    for word in words:
        assert word in line


def test_where_heads_leave_whole_an_attention_width_is_a_number_of_heads():
    whole = shape(whole_heads=True)
    text = "[[[32, 417], [256, 9]], [[64, 96, 3], [128, 160, 5], [192, 224, 7]]]"
    assert whole.to_text(whole.parse(text)) == text
    line = refused(text.replace("160", "168"), whole)
    assert "layer 1: cross width 168 is not a multiple of the 32 channels of a head" in line


def test_ffn_widths_need_not_be_multiples_of_the_heads():
    assert LAYOUT.parse(TEXT.replace("416", "417"))["encoder.0.ffn"] == 417


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("[[64, 64]]", ["1 backbone blocks, the model has 16"]),
        (json.dumps([[64, 64], [64], *[[64, 64]] * 14]), ["backbone block 1 has 1 numbers ([64])", "2: conv1, conv2"]),
        (json.dumps([[64, 64], [64, 65], *[[64, 64]] * 14]), ["backbone block 1: conv2 width 65", "dense model's 64"]),
    ],
)
def test_backbone_widths_that_do_not_fit_are_refused_with_both_numbers(backbone, words):
    line = refused(f"{TEXT[:-1]}, {backbone}]", shape(backbone="resnet50"))
    for word in words:
        assert word in line


def test_messages_name_sites_in_words():
    words = [LAYOUT.label(site) for site in ("backbone.3.conv1", "encoder.1", "encoder.1.attn", "queries", "boxes.0")]
    assert words == [
        "backbone block 3: conv1", "encoder layer 1", "encoder layer 1: attn", "queries", "box head: hidden layer 0"
    ]  # fmt: skip
