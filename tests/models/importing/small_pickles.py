"""Pickles written by hand, instruction by instruction, and files of `torch.save` around them."""

import pickle
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C


def name(path):
    module, _, last = path.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return pickle.LONG1 + bytes([len(data)]) + data


def text(value):
    data = value.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def list_of(*items):
    return b"](" + b"".join(items) + b"e"


def dict_of(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(path, *arguments):
    return name(path) + tuple_of(*arguments) + b"R"


def build(built, state):
    return built + state + b"b"


def storage(count, kind="torch.FloatStorage", key="0", old=False):
    parts = (text("storage"), name(kind), text(key), text("cpu"), number(count), *((b"N",) if old else ()))
    return tuple_of(*parts) + b"Q"


def tensor(held, size, stride, old=False):
    shape = (tuple_of(*map(number, each)) for each in (size, stride))
    return call("torch._utils._rebuild_tensor_v2", storage(held, old=old), number(0), *shape, b"\x89", b"N")


def doubled(depth, inner=b"K\x01"):
    """A tuple of two of a tuple of two ...: 2^depth of the innermost, of a few bytes a level."""
    return inner + b"q\x00" + b"h\x00\x86q\x00" * depth


def write_zip(path, body, data=b"", **options):
    """A file as torch.save writes it today."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", data)
    return path


def write_old(path, body, data=b"", count=0):
    """A file as torch.save wrote it before PyTorch 1.6."""
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True}))
    keys = pickle.dumps(["0"] if data else [], 2)
    tail = count.to_bytes(8, "little") + data if data else b""
    path.write_bytes(head + b"\x80\x02" + body + b"." + keys + tail)
    return path
