"""Made-up searches: trials, prices and evaluations without any detector."""

import io
from collections.abc import Iterable, Mapping

from rich.console import Console, RenderableType

from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES
from greedyprune.evaluation.profile import Latency
from greedyprune.evaluation.result import Costs, EvalResult
from greedyprune.report.console import open_console
from greedyprune.sites import AttentionSite, CountSite, HiddenSite, Reader, Site
from greedyprune.study.trial import Baseline, Grown, Trial

BASELINE = Baseline(0.5, 0.6, 10, 1.0)
# What an unlucky user's classes, layers and files are called.
NAMES = {
    "brackets": "car [front]",
    "closing": "[/red]",
    "style": "[bold]x[/bold]",
    "emoji code": ":car:",
    "emoji": "\U0001f697 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "lines": "two\nlines\tand a tab",
    "control": "\x1b[31mred\x07",
    "empty": "",
    "blank": " ",
    "mathematics": "$x^2$ and $",
    "underscore": "_hidden",
    "long": "x" * 300,
    "surrogate": "lone \ud800",
    "wide": "\u6c7d\u8f66" * 50,
    "backwards": "\u202eabc",
}
PLAIN = ("brackets", "closing", "style", "emoji code", "emoji")  # those that are shown letter by letter


class Price:
    """A detector of 200 G whose only site has 100 channels and all of the cost."""

    def __init__(self, kind: str = "flops") -> None:
        self.kind, self.dense, self.sites = kind, 200e9, 200e9

    def share_with(self, widths: Mapping[str, int]) -> float:
        return widths["site"] / 100

    def of_sites(self, widths: Mapping[str, int]) -> float:
        return self.share_with(widths) * self.sites


def trial(
    width: int, ap: float | None, phase: str = "budget", holds: bool = False, grown: Grown | None = None
) -> Trial:
    """A trial with a width of the only site."""
    return Trial(
        phase=phase,
        step=0,
        widths={"site": width},
        share=width / 100,
        holds=holds,
        subset_map=0.5,
        full_map=ap,
        target=0.588,
        params=1,
        flops=1,
        image_forwards=100,
        seconds=2.0,
        grown=grown,
    )


def layered_sites() -> list[Site]:
    """Two layers with an attention and an FFN each, and queries."""
    sites: list[Site] = []
    for layer in ("first", "second"):
        about = {"label": layer, "part": "encoder", "inside": layer}
        sites.append(CountSite(name=layer, label=layer, part="layers", full=1, least=0))
        sites.append(AttentionSite(name=f"{layer}.attn", full=64, heads=8, reader=Reader("out"), **about))
        sites.append(HiddenSite(name=f"{layer}.ffn", full=256, readers=(Reader("out"),), **about))
    sites.append(CountSite(name="queries", label="queries", part="queries", full=50, queries=True))
    return sites


def evaluated(
    share: float = 1.0,
    classes: Iterable[str] = ("box", "disc"),
    parts: Iterable[str] = ("Transformer",),
    latency: bool = False,
    device: str = "cpu",
) -> EvalResult:
    """A detector that has a share of a dense one's cost and of its AP, and no small objects to find."""
    time = Latency(20.0 * share, 30.0 * share) if latency else None
    scores = dict.fromkeys((*AP_NAMES, *AR_NAMES), 0.5 * share) | {"AP_small": -1.0}
    return EvalResult(
        accuracy=scores,
        per_class=dict.fromkeys(classes, 0.125),
        cost=Costs(round(3e6 * share), round(400e6 * share), time),
        parts={label: Costs(round(2e6 * share), round(100e6 * share), time) for label in parts},
        device=device,
        threads=1,
        dtype="float32",
        images=3,
        image_seed=None,
        image_size=(48, 64),
    )


def printed(what: RenderableType, width: int = 80, console: Console | None = None) -> list[str]:
    """The lines that a console of some width makes of something."""
    file = io.StringIO()
    console = console or open_console(file)
    console.file, console.width = file, width
    console.print(what)
    return file.getvalue().splitlines()
