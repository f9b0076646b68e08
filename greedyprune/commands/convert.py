"""`tools/convert.py`: data of other formats to COCO's layout, and back."""

import argparse
import sys
from collections.abc import Sequence

from greedyprune.cli import Parser
from greedyprune.data.conversion import PLACINGS, Classes, Source, Tally, read_coco, write_coco
from greedyprune.data.folders import SPLITS, new_folder
from greedyprune.data.kitti import read_kitti, write_kitti
from greedyprune.data.summary import summarize
from greedyprune.data.voc import read_voc, write_voc
from greedyprune.data.yolo import read_yolo, write_yolo
from greedyprune.errors import UserError
from greedyprune.ranges import SEED, SHARE
from greedyprune.text import file_path, plain_text, printable

FORMATS = ("kitti", "voc", "yolo")
SHOWN = 10  # broken lines and files that are named
# Options that say something of one format alone.
OWN = {
    "kitti": ("train_ids", "val_ids", "val_share", "seed"),
    "voc": ("train", "val", "encoding"),
}
FORWARD = ("classes", "merge", "skip_broken", *OWN["kitti"], *OWN["voc"])


def parser() -> argparse.ArgumentParser:
    """The options of `tools/convert.py`; what was not given is None."""
    parser = Parser("Convert KITTI, Pascal VOC or YOLO data to COCO's layout, which all tools read, or back.")
    parser.add_argument("format", choices=FORMATS, help="of DIR; with --back, of what is written")
    parser.add_argument("folder", type=file_path, metavar="DIR", help="the data")
    parser.add_argument("--out", type=file_path, required=True, metavar="DIR", help="not there yet, or empty")
    parser.add_argument("--back", action="store_true", help="DIR has COCO's layout, and the format is written")
    parser.add_argument("--images", choices=PLACINGS, default="copy", help="how images get there")
    parser.add_argument(
        "--skip_broken",
        action="store_true",
        default=None,
        help="leave out broken lines and files, and say how many there are; without it the first one is refused",
    )
    group = parser.add_argument_group("classes")
    group.add_argument(
        "--classes",
        type=plain_text,
        metavar="A,B,C",
        help="in the order of their ids; others are left out (default: all; of KITTI Car,Pedestrian,Cyclist)",
    )
    group.add_argument("--merge", type=plain_text, metavar="A=B,C=D", help="take objects of A for B, and so on")
    group = parser.add_argument_group("KITTI: training and validation images")
    for split in SPLITS:
        group.add_argument(
            f"--{split}_ids",
            type=file_path,
            metavar="FILE",
            help="their ids, one a line (default: DIR/ImageSets/{train,val}.txt where these are there)",
        )
    group.add_argument("--val_share", type=SHARE.parse, metavar="X", help="draw them instead (default: 0.5)")
    group.add_argument("--seed", type=SEED.parse, metavar="N", help="of the drawing (default: 0)")
    group = parser.add_argument_group("Pascal VOC")
    for split, usual in (("train", "trainval, or train where no year has a test set"), ("val", "test, or val")):
        group.add_argument(
            f"--{split}",
            nargs="+",
            type=plain_text,
            metavar="YEAR:SET",
            help=f"image sets, as 2007:trainval; without a year of all years that have it (default: {usual})",
        )
    group.add_argument(
        "--encoding", type=plain_text, metavar="NAME", help="of annotation files that declare none (default: utf-8)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert as the arguments say, and tell what came of it.

    Raises:
        UserError: the data cannot be read, or something is broken and nothing is skipped.
    """
    args = parser().parse_args(argv)
    _check(args)
    tally = Tally(bool(args.skip_broken))
    if args.back:
        _back(args, tally)
        _tell(tally)
        return 0
    source = _read(args, tally)
    shared = {each.path for each in source.splits["train"]} & {each.path for each in source.splits["val"]}
    if shared:
        tally.notes.append(f"images in both train and val, which make AP on val say little: {len(shared)}")
    write_coco(args.out, source, args.images)
    for split in SPLITS:
        print(*summarize(args.out, split).lines(split), sep="\n")
    _tell(tally)
    print(f"written to {args.out}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do nothing."""
    for kind, names in OWN.items():
        for name in names:
            if kind != args.format and getattr(args, name) is not None:
                raise UserError(f"--{name} does nothing in this call: it is for {kind}; leave it out")
    for name in FORWARD:
        if args.back and getattr(args, name) is not None:
            raise UserError(f"--{name} does nothing in this call: it is for the way to COCO's layout; leave it out")
    drawn = [name for name in ("val_share", "seed") if getattr(args, name) is not None]
    listed = [name for name in ("train_ids", "val_ids") if getattr(args, name) is not None]
    if len(listed) == 1:
        raise UserError(f"--{listed[0]} names the images of one split; give both --train_ids and --val_ids")
    if listed and drawn:
        raise UserError(f"--{drawn[0]} draws the images that --{listed[0]} names; give one of them")
    if (args.train is None) != (args.val is None):
        raise UserError("--train and --val belong together; give both or neither")


def _read(args: argparse.Namespace, tally: Tally) -> Source:
    if not args.folder.exists():
        raise UserError(f"data folder {args.folder} does not exist")
    classes = Classes(_names(args.classes), _merged(args.merge))
    if args.format == "yolo":
        return read_yolo(args.folder, classes, tally)
    if args.format == "voc":
        sets = {split: getattr(args, split) for split in SPLITS} if args.train else None
        return read_voc(args.folder, classes, tally, sets, args.encoding or "utf-8-sig")
    ids = [getattr(args, f"{split}_ids") or args.folder / "ImageSets" / f"{split}.txt" for split in SPLITS]
    drawn = args.val_share is not None or args.seed is not None
    if drawn or (args.train_ids is None and not all(path.exists() for path in ids)):
        share, seed = 0.5 if args.val_share is None else args.val_share, args.seed or 0
        tally.notes.append(f"{share:.0%} of the images were drawn for val, with seed {seed}")
        return read_kitti(args.folder, classes, tally, val_share=share, seed=seed)
    tally.notes.append(f"the images of train and val are those of {ids[0]} and {ids[1]}")
    return read_kitti(args.folder, classes, tally, ids)


def _back(args: argparse.Namespace, tally: Tally) -> None:
    listed, categories = read_coco(args.folder)
    with new_folder(args.out) as folder:
        if args.format == "kitti":
            write_kitti(folder, listed, args.images)
        elif args.format == "voc":
            write_voc(folder, listed, args.images)
        else:
            write_yolo(folder, listed, categories, args.images, tally)
    print(f"{len(listed)} images written to {args.out}")


def _tell(tally: Tally) -> None:
    """What could not be used, on stderr."""
    lines = [f"note: {note}" for note in tally.notes]
    if tally.left_out:
        names = ", ".join(f"{printable(name)} {count}" for name, count in tally.left_out.most_common())
        lines.append(f"note: objects of other classes are left out: {names}")
    if tally.broken:
        more = f", the first {SHOWN} of them" if len(tally.broken) > SHOWN else ""
        lines.append(f"warning: broken lines and files that are left out: {len(tally.broken)}{more}")
        lines += [f"  {line}" for line in tally.broken[:SHOWN]]
    print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)


def _names(text: str | None) -> tuple[str, ...]:
    """The names of `--classes`.

    Raises:
        UserError: one of them is empty.
    """
    names = tuple(name.strip() for name in text.split(",")) if text is not None else ()
    if not all(names):
        raise UserError(f"--classes {printable(text or '')} has an empty name; give names between commas")
    return names


def _merged(text: str | None) -> dict[str, str]:
    """The pairs of `--merge`.

    Raises:
        UserError: a part is no pair.
    """
    parts = text.split(",") if text is not None else []
    pairs = [tuple(name.strip() for name in part.split("=")) for part in parts]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise UserError(f"--merge {printable(text or '')} is not of the form A=B,C=D; correct it")
    return {pair[0]: pair[1] for pair in pairs}
