"""Tiny data sets in the layouts of KITTI, Pascal VOC and YOLO."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

SIZE = (60, 40)  # width and height
CAR = "Car 0.20 1 -1.57 5.50 4.00 30.25 34.00 1.50 1.60 3.90 1.00 1.70 20.00 -1.60"
VAN = "Van 0.00 0 1.00 31.00 2.00 59.00 38.00 2.00 1.90 5.00 4.00 1.80 15.00 1.20"
WALKER = "Pedestrian 0.00 2 0.30 1.00 1.00 9.00 39.00 1.70 0.60 0.50 -3.00 1.60 9.00 0.10"
SITTER = "Person_sitting 0.00 0 0.30 40.00 10.00 50.00 39.00 1.20 0.60 0.80 2.00 1.60 9.00 0.10"
TRUCK = "Truck 0.00 0 0.10 2.00 2.00 20.00 20.00 3.00 2.50 8.00 0.00 1.80 40.00 0.10"
REGION = "DontCare -1.00 -1 -10.00 10.00 3.00 20.00 9.00 -1.00 -1.00 -1.00 -1000.00 -1000.00 -1000.00 -10.00"


def write_image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, len(path.name))).save(path)
    return path


def write_kitti(folder: Path, labels: Mapping[str, Sequence[str]]) -> Path:
    """`labels`: lines by id."""
    (folder / "training" / "label_2").mkdir(parents=True)
    for name, lines in labels.items():
        write_image(folder / "training" / "image_2" / f"{name}.png")
        (folder / "training" / "label_2" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def write_ids(folder: Path, train: Sequence[str], val: Sequence[str]) -> Path:
    (folder / "ImageSets").mkdir()
    for split, names in (("train", train), ("val", val)):
        (folder / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def voc_object(name: str, box: Sequence[object], more: str = "") -> str:
    sides = zip(("ymax", "xmin", "ymin", "xmax"), box, strict=True)
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_file(*objects: str, size: tuple[int, int] = SIZE, head: str = "") -> str:
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"{head}<annotation><folder>VOC</folder>{told}{''.join(objects)}</annotation>"


def write_voc(year: Path, files: Mapping[str, str | bytes], sets: Mapping[str, Sequence[str]]) -> Path:
    """`files`: annotation files by id; `sets`: lines of image sets."""
    (year / "Annotations").mkdir(parents=True)
    (year / "ImageSets" / "Main").mkdir(parents=True)
    for name, content in files.items():
        write_image(year / "JPEGImages" / f"{name}.jpg")
        data = content if isinstance(content, bytes) else content.encode()
        (year / "Annotations" / f"{name}.xml").write_bytes(data)
    for name, lines in sets.items():
        (year / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return year.parent


def write_yolo(folder: Path, labels: Mapping[str, Sequence[str] | None], names: str = "[cat, dog]") -> Path:
    """`labels`: lines by `split/name`; None: there is no file."""
    for name, lines in labels.items():
        split, _, stem = name.partition("/")
        write_image(folder / "images" / split / f"{stem}.jpg")
        path = folder / "labels" / split / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if lines is not None:
            path.write_text("".join(f"{line}\n" for line in lines))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return folder
