"""What the options of a search need in order to do something."""

from argparse import Namespace

from greedyprune.commands.needs import Need, Needs
from greedyprune.pruning.scorers import SCORERS
from greedyprune.search.steps import COSTS

# How sites may be cut, by the parts that are pruned: of the closed form alone, the backbone has one as well.
SCORERS_OF = {"transformer": SCORERS, "all": ("basis", "select"), "backbone": ("basis",)}


CLOSED_FORM = "the backbone is cut by the closed form: basis, and with --prune all select, too"


def _has_budget(args: Namespace) -> bool:
    return any(getattr(args, f"target_{cost}") is not None for cost in COSTS)


def _in_part(name: str) -> Need:
    """A setting of all sites, where one of the two kinds has none of its own."""
    own = [f"{part}.{name}" for part in ("attn", "ffn")]
    return Need(
        f"--{own[0]} and --{own[1]} take its place", lambda args: any(getattr(args, each) is None for each in own)
    )


_GLOBAL = Need("it is for --schedule global", lambda args: args.schedule == "global")
_GROWTH = Need("it is for --schedule gp and modular", lambda args: args.schedule != "global")
_GP = Need("it is for --schedule gp", lambda args: args.schedule == "gp")
_TOLERANCE = Need("--target_... takes the place of a tolerance", lambda args: not _has_budget(args))
_TRANSFORMER = Need("--prune backbone cuts no attention and no FFN", lambda args: args.prune != "backbone")
_BACKBONE = Need("it is for --prune backbone and all", lambda args: args.prune != "transformer")
_MENDING = Need("nothing is mended (--mend_steps 0 or --mends 0)", lambda args: args.mend_steps and args.mends)

NEEDS: Needs = {
    **{f"target_{cost}": (_GLOBAL,) for cost in COSTS},
    "cost": (_GLOBAL,),
    "map_tol": (_TOLERANCE, _in_part("map_tol")),
    "skip_eval_converge": (_TOLERANCE, _in_part("skip_eval_converge")),
    "num_evaluate": (_GROWTH, _in_part("num_evaluate")),
    **{
        f"{part}.{name}": (_GROWTH,)
        for name in ("map_tol", "skip_eval_converge", "num_evaluate")
        for part in ("attn", "ffn")
    },
    "site_decay": (_GP,),
    "prune": (
        Need(
            "it is for --schedule global, the others prune the Transformer",
            lambda args: args.schedule == "global" or args.prune == "transformer",
        ),
    ),
    "whole_heads": (_TRANSFORMER,),
    "attn_step": (_TRANSFORMER,),
    "ffn_step": (_TRANSFORMER,),
    "conv_step": (_BACKBONE,),
    "scorer": (
        Need(
            "it is for --schedule global, the others grow sites by the exact score",
            lambda args: args.schedule == "global" or args.scorer == "exact",
        ),
        Need(CLOSED_FORM, lambda args: args.scorer in SCORERS_OF[args.prune]),
    ),
    "refit": (
        _GLOBAL,
        Need(
            "what reads a backbone's kept channels is always solved again",
            lambda args: args.refit or args.prune != "backbone",
        ),
    ),
    "rounds": (_GLOBAL,),
    "mend_steps": (_GLOBAL, Need("nothing is mended with --mends 0", lambda args: args.mends or not args.mend_steps)),
    "mends": (
        _GLOBAL,
        Need("nothing is mended with --mend_steps 0", lambda args: args.mend_steps or not args.mends),
        Need("within a budget one model is mended", lambda args: args.mends <= 1 or not _has_budget(args)),
    ),
    "mend_images": (_GLOBAL, _MENDING),
    "mend_augment": (_GLOBAL, _MENDING, _BACKBONE),
    "calib_images": (_GLOBAL,),
    "pareto": (_GLOBAL,),
    "refine": (_GLOBAL,),
    "sampler": (_GLOBAL, Need("it is for --refine N", lambda args: args.refine)),
    "subset_images": (
        Need(
            "--eval_images are fewer, and all of them are the subset",
            lambda args: not args.eval_images or args.subset_images <= args.eval_images,
        ),
    ),
}
