import contextlib
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from greedyprune.data.images import ImageError, is_ambiguous, read_image

SCENE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
DEEP = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)


def read(path, size=(5, 7)):
    return read_image(path, size, f"image 1 ({path})").rgb


def refusal(path, size=(5, 7)):
    with pytest.raises(ImageError) as error:
        read(path, size)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def write_tiff(path, packed, bits, photometric=1, sample_format=1, order="<"):
    """A greyscale TIFF of 7 x 5 pixels with these bytes, of kinds that Pillow reads and does not write."""
    tags = {256: 7, 257: 5, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 5, 279: len(packed)}
    tags[339] = sample_format
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(packed))
    path.write_bytes(head + packed + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


def pack_12_bits(values):
    bits = "".join(f"{value:012b}" for value in values.tolist())
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize(
    ("name", "dtype", "mode"),
    [
        ("deep.png", "<u2", "I;16"),
        ("deep.tiff", "<u2", "I;16"),
        ("deep.tiff", ">u2", "I;16B"),
        ("deep.jp2", "<u2", "I;16"),
        ("deep.pgm", "<u2", "I"),
    ],
)
def test_16_bit_greyscale_is_its_high_byte(tmp_path, name, dtype, mode):
    Image.fromarray(DEEP.astype(dtype)).save(tmp_path / name)
    with Image.open(tmp_path / name) as file:
        assert file.mode in {mode, "I"}  # which older Pillows make of PNGs
    assert np.array_equal(read(tmp_path / name), np.repeat((DEEP >> 8).astype(np.uint8)[:, :, None], 3, 2))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiffs_of_both_byte_orders_are_read(tmp_path, order):
    write_tiff(tmp_path / "deep.tiff", DEEP.astype(f"{order}u2").tobytes(), 16, order=order)
    assert np.array_equal(read(tmp_path / "deep.tiff")[:, :, 2], DEEP >> 8)


def test_a_16_bit_tiff_whose_white_is_zero_is_no_negative(tmp_path):
    write_tiff(tmp_path / "deep.tiff", DEEP.tobytes(), 16, photometric=0)
    assert np.array_equal(read(tmp_path / "deep.tiff")[:, :, 0], 255 - (DEEP >> 8))


def test_12_bits_are_scaled_by_12_bits(tmp_path):
    even = (DEEP[:, :1] >> 4).repeat(7, 1)  # rows begin on a byte: the first six values fill nine, the last one two
    packed = b"".join(pack_12_bits(row) for row in even)
    write_tiff(tmp_path / "deep.tiff", packed, 12)
    assert np.array_equal(read(tmp_path / "deep.tiff")[:, :, 0], even >> 4)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA"])
def test_16_bit_colour_is_its_high_byte_too(tmp_path, kind):
    """PNGs written by hand: Pillow writes none with 16 bits of colour or alpha."""
    channels, colour_type = {"RGB": (3, 2), "RGBA": (4, 6), "LA": (2, 4)}[kind]
    deep = np.random.default_rng(1).integers(0, 65536, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 7, 5, 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    expected = (deep >> 8).astype(np.uint8)
    expected = expected[:, :, :3] if channels > 2 else expected[:, :, :1].repeat(3, 2)
    assert np.array_equal(read(tmp_path / "deep.png"), expected)


@pytest.mark.parametrize("case", ["int32", "float32", "float32 pfm", "signed 16 bits"])
def test_pixels_of_unknown_range_are_refused(tmp_path, case):
    path = tmp_path / ("deep.pfm" if "pfm" in case else "deep.tiff")
    if case == "signed 16 bits":
        write_tiff(path, DEEP.astype("<i2").tobytes(), 16, sample_format=2)
    else:
        Image.fromarray(DEEP.astype(case.split()[0])).save(path)
    assert "does not say which values are black and white; save it with 8 bits" in refusal(path)


def palette(alpha):
    image = Image.fromarray(SCENE).quantize(16)
    if alpha:
        image.info["transparency"] = bytes(range(0, 256, 16))
    return image


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("grey.png", Image.fromarray(SCENE[:, :, 0]), SCENE[:, :, :1].repeat(3, 2)),
        ("grey_alpha.png", Image.fromarray(SCENE[:, :, :2], "LA"), SCENE[:, :, :1].repeat(3, 2)),
        ("alpha.png", Image.fromarray(np.dstack((SCENE, SCENE[:, :, 0])), "RGBA"), SCENE),
        ("bits.png", Image.fromarray(SCENE[:, :, 0] > 99), (SCENE[:, :, :1] > 99).repeat(3, 2) * np.uint8(255)),
        ("palette.png", palette(False), np.array(palette(False).convert("RGB"))),
        ("palette_alpha.png", palette(True), np.array(palette(False).convert("RGB"))),
        ("palette.gif", palette(False), np.array(palette(False).convert("RGB"))),
        ("cmyk.tiff", Image.fromarray(255 - np.dstack((SCENE, np.full((5, 7), 255, np.uint8))), "CMYK"), SCENE),
        ("ycc.jpg", Image.new("YCbCr", (7, 5), (200, 128, 128)), np.full((5, 7, 3), 200, np.uint8)),
        ("plain.webp", Image.fromarray(np.full((5, 7, 3), 90, np.uint8)), np.full((5, 7, 3), 90, np.uint8)),
    ],
)
def test_every_other_mode_becomes_the_colours_that_are_seen_without_transparency(
    tmp_path, name, image, expected, recwarn
):
    image.save(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), expected)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["moving.gif", "moving.png", "moving.webp", "pages.tiff"])
def test_the_first_of_several_pictures_counts(tmp_path, name):
    first, second = (Image.new("RGB", (7, 5), grey) for grey in ((40, 40, 40), (200, 200, 200)))
    first.save(tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "webp" in name else {}))
    assert set(read(tmp_path / name).ravel().tolist()) == {40}


def test_a_program_that_draws_is_refused(tmp_path):
    Image.fromarray(SCENE).save(tmp_path / "scene.eps")
    assert "is a PostScript program, not an image" in refusal(tmp_path / "scene.eps")


def oriented(folder, suffix, orientation):
    """A picture with an EXIF orientation, as it is stored and as it is meant to be seen."""
    path = folder / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(SCENE).save(path, exif=exif, **options)
    with Image.open(path) as file:
        # Pillow itself turns TIFFs.
        stored = SCENE if suffix == "tiff" else np.array(file.convert("RGB"))
        upright = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    return path, stored, upright


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_where_its_size_agrees_or_does_not_tell(tmp_path, suffix, orientation):
    path, stored, upright = oriented(tmp_path, suffix, orientation)
    turned = orientation > 4
    seen = read_image(path, upright.shape[:2], "image")
    assert np.array_equal(seen.rgb, upright)
    assert seen.guessed == is_ambiguous(path, upright.shape[:2]) == (orientation in (2, 3, 4))
    as_stored = read_image(path, (5, 7), "image")
    assert np.array_equal(as_stored.rgb, stored if turned else upright)
    assert as_stored.guessed == (orientation in (2, 3, 4))
    assert "pixels, but 8 x 5 in the annotations" in refusal(path, (5, 8))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_orientation_of_a_square_image_is_a_guess(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SCENE[:, :5]).save(tmp_path / "square.png", exif=exif)
    seen = read_image(tmp_path / "square.png", (5, 5), "image")
    with Image.open(tmp_path / "square.png") as file:
        assert np.array_equal(seen.rgb, np.array(ImageOps.exif_transpose(file)))
    assert seen.guessed


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_is_none_is_none(tmp_path, value):
    path, stored, _ = oriented(tmp_path, "jpg", value)
    seen = read_image(path, (5, 7), "image")
    assert np.array_equal(seen.rgb, stored)
    assert not seen.guessed


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
def test_broken_exif_data_say_nothing(tmp_path):
    Image.fromarray(SCENE).save(tmp_path / "scene.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert np.array_equal(read(tmp_path / "scene.png"), SCENE)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pipe", "it is a named pipe"),
        ("device", "it is a device"),
        ("folder", "it is a folder"),
        ("link to itself", "symbolic links"),
        ("link to nothing", "no such file"),
        ("nothing in it", "cannot be read"),
        ("longest name", "cannot be read"),
    ],
)
def test_what_is_no_regular_file_is_not_even_opened(tmp_path, kind, expected):
    path = tmp_path / ("a" * 300 if kind == "longest name" else "image.png")
    make = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "link to itself": lambda: path.symlink_to(path),
        "link to nothing": lambda: path.symlink_to(tmp_path / "nothing"),
        "nothing in it": lambda: path.write_bytes(b""),
        "longest name": lambda: None,
    }
    make[kind]()
    assert expected in refusal(path)
    assert not is_ambiguous(path, (5, 7))


@pytest.mark.parametrize(
    ("side", "said", "expected"),
    [
        (9000, 5, "is 9000 x 9000 pixels, but 5 x 5 in the annotations"),
        (2**31 - 1, 2**31 - 1, "decompression bomb"),
    ],
)
def test_a_file_that_declares_a_gigantic_size_is_not_decoded(tmp_path, side, said, expected):
    path = tmp_path / "scene.png"
    Image.fromarray(SCENE).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)
    assert expected in refusal(path, (said, said))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "gif", "webp", "bmp", "ppm", "jp2"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
def test_broken_files_of_every_format_are_refused_or_read(tmp_path, suffix):
    noise = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / f"noise.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    random = np.random.default_rng(3)
    for _ in range(25):
        broken = bytearray(whole)
        for place in random.integers(0, len(broken), 6):
            broken[place] = random.integers(256)
        path.write_bytes(broken[: random.integers(1, len(broken) + 1)])
        with contextlib.suppress(ImageError):
            assert read(path, (20, 30)).shape == (20, 30, 3)


def test_a_process_with_no_files_left_does_not_blame_the_image(tmp_path):
    Image.fromarray(SCENE).save(tmp_path / "scene.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read(tmp_path / "scene.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
