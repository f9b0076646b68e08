"""`tools/bench_search.py`: how fast a search scores and evaluates, on random weights and generated images."""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import nn

from greedyprune.cli import Parser, add_device_arguments, open_device
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import describe_device
from greedyprune.families import family_of
from greedyprune.models import MODELS, build_model
from greedyprune.pruning.kinds.channels import ChannelSite
from greedyprune.ranges import BATCH, COUNT, COUNT_OR_NONE, PIXELS, Range
from greedyprune.report.console import open_console
from greedyprune.report.measured import Circumstances, check_output
from greedyprune.report.speed import (
    OrderTime,
    order_table,
    part_table,
    part_times,
    search_table,
    search_times,
    speed_table,
)
from greedyprune.search.speed import Generated, SpeedBench
from greedyprune.text import file_path, plain_text

CLASSES = 91  # COCO's largest category id and one
CANDIDATES = Range(int, 2, 256)  # two are told apart, and every one is a channel of its own of the narrowest site
_SIDE = Range(int, 32, PIXELS.high)


def start_zeros(model: nn.Module) -> None:
    """Random numbers for the weights that a detector starts with as zeros, so that its boxes depend on its channels."""
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_uniform_(parameter)


def published_sites(model: nn.Module) -> list[ChannelSite]:
    """The sites that the published schedules grow."""
    family = family_of(model)
    sites = [site for site in family.sites(model) if site.part in family.published]
    return [site for site in sites if isinstance(site, ChannelSite)]


def layers_of(sites: Sequence[ChannelSite]) -> dict[str, list[list[ChannelSite]]]:
    """The sites of every layer of every part, front to back."""
    found: dict[str, dict[str, list[ChannelSite]]] = {}
    for site in sites:
        found.setdefault(site.part, {}).setdefault(site.inside, []).append(site)
    return {part: list(layers.values()) for part, layers in found.items()}


def parser() -> argparse.ArgumentParser:
    """The options of `tools/bench_search.py`."""
    parser = Parser(
        "Measure how long a site's full order takes: by the published score, from the cache, and in closed form. "
        "Random weights, generated images; a part is run, the rest is counted. Exit code 1 where the cache makes "
        "other choices."
    )
    parser.add_argument("--model", choices=tuple(MODELS), default="dn_detr", help="which detector")
    parser.add_argument("--backbone", type=plain_text, default="resnet50", help="its backbone")
    parser.add_argument(
        "--layer", type=COUNT_OR_NONE.parse, default=0, metavar="N", help="layer of the sites; 0 is the hardest"
    )
    parser.add_argument("--images", type=BATCH.parse, default=1, metavar="N", help="images at once")
    parser.add_argument("--candidates", type=CANDIDATES.parse, default=4, metavar="N", help="measured at every site")
    size = parser.add_argument_group("image size")
    size.add_argument("--height", type=_SIDE.parse, default=800, metavar="N", help="pixels")
    size.add_argument("--width", type=_SIDE.parse, default=1066, metavar="N", help="pixels")
    parser.add_argument(
        "--ap_images", type=COUNT.parse, default=1000, metavar="N", help="images on which COCO's AP is timed"
    )
    parser.add_argument(
        "--evaluations", type=COUNT.parse, default=30, metavar="N", help="of a search with the closed form, assumed"
    )
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write what was measured there, too")
    add_device_arguments(parser, amp=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the arguments say, and print the tables.

    Args:
        argv: the command line.

    Returns:
        The exit code: 1 where candidates scored from the cache come in another order.

    Raises:
        UserError: no such device, model or backbone, or a layer that the model does not have.
    """
    args = parser().parse_args(argv)
    check_output(args.json, "--json")
    device = open_device(args)
    now = Circumstances.now("bench_search", argv, device)
    torch.manual_seed(0)
    model = build_model(args.model, num_classes=CLASSES, backbone=args.backbone)
    start_zeros(model)
    model.to(device).eval()
    sites = published_sites(model)
    layers = layers_of(sites)
    for part, found in layers.items():
        if args.layer >= len(found):
            raise UserError(
                f"--layer {args.layer}: the {part} has {len(found)} layers, the last one is {len(found) - 1}"
            )
    batch = Generated(args.images, (args.height, args.width), CLASSES, device)
    bench = SpeedBench(family_of(model), model, sites, batch)
    console = open_console()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    console.print(
        f"{args.model}, {args.backbone}, random weights; {args.images} generated image(s) of {args.width} x "
        f"{args.height} at once, {args.candidates} candidates a site; float32 on {describe_device(device)}{threads}"
    )
    chosen = {part: found[args.layer] for part, found in layers.items()}
    measured = {part: [bench.measure_site(site, args.candidates) for site in own] for part, own in chosen.items()}
    speeds = [speed for own in measured.values() for speed in own]
    orders = [OrderTime.of(speed, bench.before) for speed in speeds]
    console.print(speed_table(speeds, args.candidates), order_table(orders))
    profile = bench.measure_profile(args.ap_images)
    # Every layer of a part is as wide as the one that was measured.
    cuts = sum(len(layers[part]) * sum(speed.cut for speed in own) for part, own in measured.items())
    parts, searches = part_times(profile), search_times(profile, args.evaluations, cuts)
    console.print(part_table(parts), search_table(searches))
    if args.json is not None:
        about = {
            "model": args.model,
            "backbone": args.backbone,
            "image_size": list(batch.size),
            "images": args.images,
            "candidates": args.candidates,
            "evaluations": args.evaluations,
        }
        now.write(args.json, about, {"sites": speeds, "orders": orders, "parts": parts, "searches": searches})
    different = [speed.site for speed in speeds if not speed.same]
    if different:
        print(f"the cache makes other choices at {', '.join(different)}", file=sys.stderr)
    return int(bool(different))
