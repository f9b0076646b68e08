"""What the options of a search need in order to do something."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from greedyprune.errors import UserError
from greedyprune.search.options import COSTS, SearchOptions
from greedyprune.sites import AttentionSite, CountSite, HiddenSite, Site


@dataclass(frozen=True)
class Call:
    """What a command line asks for.

    Attributes:
        args: parsed arguments; what was not given is None.
        options: what they say.
        sites: those that are searched.
    """

    args: argparse.Namespace
    options: SearchOptions
    sites: Sequence[Site]

    def has(self, sort: str) -> bool:
        """Whether hidden sites of a sort are searched."""
        return any(isinstance(site, HiddenSite) and site.sort == sort for site in self.sites)


@dataclass(frozen=True)
class Need:
    """What an option needs in order to do something.

    Attributes:
        text: follows "--option does nothing in this call: ".
        met: whether a call has it.
    """

    text: str
    met: Callable[[Call], bool]


def _own(name: str) -> Need:
    """A setting of all sites, where one of the two kinds has none of its own."""
    flags = [f"{kind}.{name}" for kind in ("attn", "ffn")]
    text = f"--{flags[0]} and --{flags[1]} take its place"
    return Need(text, lambda call: any(getattr(call.args, flag) is None for flag in flags))


_GLOBAL = Need("it is for --schedule global", lambda call: not call.options.published)
_GROWTH = Need("it is for --schedule gp and modular", lambda call: call.options.published)
_GP = Need("it is for --schedule gp", lambda call: call.options.schedule == "gp")
_TOLERANCE = Need("--target_... takes the place of a tolerance", lambda call: call.options.budget is None)
_MENDING = Need("nothing is mended (--mend_steps 0 or --mends 0)", lambda call: call.options.mends)
_ATTENTION = Need(
    "no attention is searched (--prune)", lambda call: any(isinstance(site, AttentionSite) for site in call.sites)
)
_HIDDEN = Need(
    "nothing but attention is searched (--prune)", lambda call: any(isinstance(site, HiddenSite) for site in call.sites)
)
CONVOLUTIONS = Need("no convolutions are searched (--prune)", lambda call: call.has("conv"))

NEEDS: Mapping[str, tuple[Need, ...]] = {
    **{f"target_{cost}": (_GLOBAL,) for cost in COSTS},
    "cost": (_GLOBAL,),
    "map_tol": (_TOLERANCE, _own("map_tol")),
    "skip_eval_converge": (_TOLERANCE, _own("skip_eval_converge")),
    "num_evaluate": (_GROWTH, _own("num_evaluate")),
    **{
        f"{kind}.{name}": (_GROWTH, there)
        for name in ("map_tol", "skip_eval_converge", "num_evaluate")
        for kind, there in (("attn", _ATTENTION), ("ffn", _HIDDEN))
    },
    "site_decay": (_GP,),
    "whole_heads": (_ATTENTION,),
    "attn_step": (_ATTENTION,),
    "ffn_step": (Need("no FFN is searched (--prune)", lambda call: call.has("ffn")),),
    "mlp_step": (Need("no heads are searched (--prune)", lambda call: call.has("mlp")),),
    "conv_step": (CONVOLUTIONS,),
    "query_step": (
        Need(
            "no queries are searched (--prune)",
            lambda call: any(isinstance(site, CountSite) and site.queries for site in call.sites),
        ),
    ),
    "scorer": (
        Need(
            "it is for --schedule global, the others grow sites by the exact score",
            lambda call: not call.options.published or call.options.scorer == "exact",
        ),
    ),
    "refit": (_GLOBAL,),
    "rounds": (_GLOBAL,),
    "mend_steps": (
        _GLOBAL,
        Need(
            "nothing is mended with --mends 0",
            lambda call: bool(call.options.mend.hold or not call.options.mend.steps),
        ),
    ),
    "mends": (
        _GLOBAL,
        Need(
            "nothing is mended with --mend_steps 0",
            lambda call: bool(call.options.mend.steps or not call.options.mend.hold),
        ),
        Need(
            "within a budget one model is mended",
            lambda call: call.options.mend.hold <= 1 or call.options.budget is None,
        ),
    ),
    "mend_images": (_GLOBAL, _MENDING),
    "mend_augment": (_GLOBAL, _MENDING, CONVOLUTIONS),
    "calib_images": (_GLOBAL,),
    "pareto": (_GLOBAL,),
    "refine": (_GLOBAL,),
    "sampler": (_GLOBAL, Need("it is for --refine N", lambda call: bool(call.options.refine))),
    "subset_images": (
        Need(
            "--eval_images are fewer, and all of them are the subset",
            lambda call: (
                not call.options.images.eval_images
                or call.options.images.subset_images <= call.options.images.eval_images
            ),
        ),
    ),
}


def check_needs(call: Call, needs: Mapping[str, Sequence[Need]] = NEEDS) -> None:
    """Refuse the first option that was given and does nothing.

    Args:
        call: what is asked for.
        needs: what each option needs.

    Raises:
        UserError: names the option and what it needs.
    """
    for name, own in needs.items():
        value = getattr(call.args, name)
        for need in own if value is not None else ():
            if not need.met(call):
                flag = f"--{'no-' if value is False else ''}{name}"
                raise UserError(f"{flag} does nothing in this call: {need.text}; leave it out")
