"""A small file cannot ask for all memory or time: every kind is tried, in a process that has little of both."""

import subprocess
import sys
import tarfile
import zipfile
from functools import partial

import pytest
import torch

from greedyprune.models import read_checkpoint

from ..small_model import ARGUMENTS, published, refused
from .small_pickles import (
    build,
    call,
    dict_of,
    doubled,
    list_of,
    name,
    number,
    storage,
    tensor,
    text,
    tuple_of,
    write_old,
    write_zip,
)

HUGE = 2**36
RANGE = call("builtins.range", number(HUGE))
WEIGHT = "transformer.encoder.layers.0.linear1.weight"
LONG_TEXT = text("x" * 1_000_000) + b"q\x05"
# What the one process may take beyond what it has when everything is imported.
READ = """
import resource, sys
from greedyprune import UserError, load_model
sizes = {line.split()[0]: line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")}
resource.setrlimit(resource.RLIMIT_AS, (int(sizes["VmSize:"]) * 1024 + 2**30,) * 2)
for path in sys.argv[1:]:
    try:
        load_model(path)
    except UserError as error:
        print(f"{path}|{error}")
    except BaseException as error:
        print(f"{path}|!{type(error).__name__}")
"""


def bodies(old):
    """What asks for too much, by its kind, for today's files or those of the old format."""
    held = partial(storage, old=old)
    shaped = partial(tensor, old=old)
    return {
        "set of a range": call("builtins.set", RANGE),
        "set of a range, by Python 2": call("__builtin__.set", call("__builtin__.xrange", number(HUGE))),
        "frozenset of a range": call("builtins.frozenset", RANGE),
        "ordered dict of a range": call("collections.OrderedDict", RANGE),
        "counter of a range": call("collections.Counter", RANGE),
        "size of a range": call("torch.Size", RANGE),
        "bytearray of a number": call("builtins.bytearray", number(HUGE)),
        "bytearray of a range": call("builtins.bytearray", RANGE),
        "bytearray of nothing, as new object": name("builtins.bytearray") + tuple_of(number(HUGE)) + b"\x81",
        "text through a codec": call("_codecs.encode", text("x" * 100), text("idna")),
        "text many times over": list_of(
            LONG_TEXT, call("_codecs.encode", b"h\x05", text("latin1")) * 1000, call("_codecs.encode", b"h\x05") * 2000
        ),
        "bytes many times over": list_of(LONG_TEXT, call("builtins.bytearray", b"h\x05", text("latin1")) * 3000),
        "numbers many times over": list_of(
            list_of(*(number(1000 + index) for index in range(20_000))) + b"q\x05",
            call("builtins.set", b"h\x05") * 2000,
        ),
        "path many times over": list_of(LONG_TEXT, call("pathlib.PosixPath", b"h\x05") * 3000),
        "namespaces of one dict": list_of(
            dict_of(**{f"k{index}": b"N" for index in range(20_000)}) + b"q\x05",
            build(call("argparse.Namespace"), b"h\x05") * 3000,
        ),
        "key of doubled tuples": b"}" + doubled(60) + b"Ns",
        "set of doubled tuples": call("builtins.set", list_of(doubled(60))),
        "ordered dict of doubled tuples": call("collections.OrderedDict", list_of(list_of(doubled(60), b"N"))),
        "key of deep tuples": b"}" + b"K\x01" + b"\x85" * 100_000 + b"Ns",
        "storage longer than its record": shaped(2**20, (1,), (1,)),
        "storage of a number": call("torch.storage.UntypedStorage", number(HUGE)),
        "typed storage of a number": call("torch.FloatStorage", number(HUGE)),
        "tensor of a number": call("torch.FloatTensor", number(HUGE)),
        "tensor of a number, as new object": name("torch.Tensor") + tuple_of(number(HUGE)) + b"\x81",
        "tensor beyond its storage": shaped(1, (HUGE,), (1,)),
        "tensor of a large stride": shaped(1, (2,), (HUGE,)),
        "old tensor beyond its storage": build(
            call("torch.FloatTensor"), tuple_of(held(1), number(0), tuple_of(number(HUGE)), tuple_of(number(1)))
        ),
        "quantized tensor": call(
            "torch._utils._rebuild_qtensor",
            *(held(1, "torch.QUInt8Storage"), number(0), tuple_of(number(HUGE)), tuple_of(number(0))),
            *(tuple_of(name("torch.per_tensor_affine"), number(1), number(0)), b"\x89", b"N"),
        ),
        "sparse tensor of doubled tuples": call(
            "torch._utils._rebuild_sparse_tensor",
            name("torch.sparse_coo"),
            tuple_of(doubled(60), doubled(60), tuple_of()),
        ),
        "nested tensor": call("torch._utils._rebuild_nested_tensor", shaped(1, (1,), (1,)), b"N", b"N", b"N"),
        "call inside a call": call(
            "torch._tensor._rebuild_from_type_v2", name("builtins.bytearray"), b"N", tuple_of(number(HUGE)), b"N"
        ),
        "calls inside calls": call("torch._tensor._rebuild_from_type_v2", *(name("torch.Size"), b"N", b"N", b"N")) * 3,
    }


BODIES = {old: bodies(old) for old in (False, True)}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a process with a gigabyte and a minute says of every file."""
    folder = tmp_path_factory.mktemp("pickles")
    paths = []
    for old, write in ((False, write_zip), (True, partial(write_old, count=1))):
        for kind, body in BODIES[old].items():
            paths.append(write(folder / f"{kind}.{'old' if old else 'zip'}.pth", dict_of(model=body), bytes(4)))
    command = [sys.executable, "-c", READ, *map(str, paths)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return {line.split("|", 1)[0].rsplit("/", 1)[1]: line.split("|", 1)[1] for line in said.splitlines()}


@pytest.mark.parametrize("form", ["zip", "old"])
@pytest.mark.parametrize("kind", BODIES[False])
def test_a_small_file_that_asks_for_much_is_refused(told, kind, form):
    line = told[f"{kind}.{form}.pth"]
    assert line.startswith("checkpoint ")
    assert len(line) < 500


def test_what_was_asked_for_is_said(told):
    assert (
        "asks for a builtins.set of something that is no list: more than a file of its size"
        in told["set of a range.zip.pth"]
    )
    assert "many times over, as builtins.bytearray" in told["bytes many times over.zip.pth"]
    assert "tuples within tuples" in told["key of doubled tuples.old.pth"]
    assert "a storage of 4,194,304 bytes" in told["storage longer than its record.zip.pth"]
    assert "asks for torch.storage.UntypedStorage, which is not on the list" in told["storage of a number.zip.pth"]


def test_values_that_hold_each_other_twice_are_not_shown(tmp_path):
    """Reading them takes nothing; a message that shows them would take all memory."""
    weight = tensor(4, (2, 2), (2, 1))
    for argument in ("modelname", "nheads", "dilation", "transformer_activation"):
        content = dict_of(model=dict_of(**{WEIGHT: weight}), args=dict_of(**{argument: doubled(60)}))
        path = write_zip(tmp_path / "args.pth", content, bytes(16))
        assert len(refused(path)) < 400
    path = write_zip(
        tmp_path / "value.pth", dict_of(model=dict_of(**{WEIGHT: weight, "a.bias": doubled(60)})), bytes(16)
    )
    assert "a.bias is a tuple, not a tensor" in refused(path)


def test_dictionaries_that_hold_each_other_many_times_are_looked_through_once(tmp_path):
    body = b"}q\x00" + b"".join(
        b"}(" + b"".join(text(f"n{i}") + b"h\x00" for i in range(30)) + b"uq\x00" for _ in range(20)
    )
    refused(write_zip(tmp_path / "laughs.pth", body), "holds no tensors")
    refused(write_zip(tmp_path / "itself.pth", b"}q\x00" + text("model") + b"h\x00s"), "holds no tensors")


def test_an_expanded_tensor_is_refused_by_name(tmp_path):
    body = dict_of(model=dict_of(**{WEIGHT: tensor(1, (2**20, 2**20), (0, 0))}))
    refused(write_zip(tmp_path / "expanded.pth", body, bytes(4)), f"tensor {WEIGHT}", "[1048576, 1048576]", "expanded")


def test_tensors_that_overlap_many_times_are_refused(tmp_path):
    state = {"model.encoder.layers.0.a.weight": torch.zeros(1000)}
    state |= {f"model.encoder.layers.{i}.b.weight": state["model.encoder.layers.0.a.weight"][:990] for i in range(40)}
    torch.save(state, tmp_path / "views.pth")
    refused(tmp_path / "views.pth", "overlap")


def test_packed_and_overlapping_archives_are_refused(dense, tmp_path):
    packed = write_zip(tmp_path / "packed.pth", b"}", bytes(10_000_000), compression=zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 100_000
    refused(packed, "packed or overlapping")
    torch.save({"model": published(dense)}, tmp_path / "plain.pth")
    double = tmp_path / "double.pth"
    double.write_bytes((tmp_path / "plain.pth").read_bytes())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(double, "a") as archive:
        archive.writestr(archive.namelist()[0], b"other")
    refused(double, "packed or overlapping")


def test_formats_that_are_code_are_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pth")
    refused(tmp_path / "script.pth", "TorchScript", "state_dict()")
    (tmp_path / "pickle").write_bytes(b"")
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        archive.add(tmp_path / "pickle", "pickle")
    refused(tmp_path / "tar.pth", "broken")
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "module.pth")
    refused(tmp_path / "module.pth", "torch.nn.modules.container.Sequential", "model.state_dict()")


def test_every_plain_thing_that_training_keeps_is_read(dense, tmp_path):
    optimizer = torch.optim.AdamW(dense.parameters())
    dense([torch.zeros(3, 64, 64)]).logits.sum().backward()
    optimizer.step()
    content = {
        "model": published(dense),
        "optimizer": optimizer.state_dict(),
        "args": ARGUMENTS,
        "things": [bytearray(b"ab"), b"ab", {1, 2}, frozenset({(1, 2)}), 1j, range(3), slice(1, 2), torch.Size([2, 3])],
        "tensors": [torch.zeros(3, 4).t(), torch.zeros(2).bool(), torch.zeros(2, dtype=torch.bfloat16).expand(3, 2)],
        "others": [torch.eye(3).to_sparse(), torch.zeros(2, device="meta")],
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "scheduler": {"last_epoch": 3, "milestones": {10: 1}, "device": torch.device("cpu"), "dtype": torch.float16},
        "rng": torch.get_rng_state(),
    }
    for zipped in (True, False):
        torch.save(content, tmp_path / "all.pth", _use_new_zipfile_serialization=zipped)
        state, _, arguments = read_checkpoint(tmp_path / "all.pth")
        assert arguments["nheads"] == 4
        assert torch.equal(state["class_embed.weight"], dense.class_embed.weight)


def test_stand_ins_for_foreign_classes_are_paid_for(tmp_path):
    few = [call(f"mmengine.config.C{index}", number(1)) for index in range(5)]
    many = [call(f"mmengine.config.C{index}", number(1)) for index in range(5000)]
    hub = dict_of(message_hub=list_of(*few))
    refused(write_zip(tmp_path / "few.pth", hub), "holds no tensors")
    refused(write_zip(tmp_path / "many.pth", dict_of(message_hub=list_of(*many))), "more than a file of its size holds")
