"""Everything about a search that decides its result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any

from greedyprune.data.transforms import AUGMENTATIONS
from greedyprune.errors import UserError
from greedyprune.evaluation.metrics import COCO, METRICS
from greedyprune.pruning.scorers import SCORERS
from greedyprune.ranges import Count, CountOrNone, Range, Seed, ShareBelowOne, check_ranges, check_types
from greedyprune.sites import AttentionSite, CountSite, HiddenSite, Site

VERSION = 1  # of what studies store
PUBLISHED = ("gp", "modular")
SCHEDULES = ["global", *PUBLISHED]  # `phases.register` and `cost.register` add to these
COSTS = ["flops", "params", "latency"]
LATER = {"metric": COCO}  # what settings mean in studies of versions that did not have them
SAMPLERS = ("tpe", "nsgaii")
PRECISIONS = ("none", "bf16", "fp16")
BUDGET = Range(float, 0, 1, below=True, above=True)
Budget = Annotated[float, BUDGET]


@dataclass(frozen=True)
class Steps:
    """By how much widths change.

    Attributes:
        attn: channels of every head, or whole heads.
        ffn: channels of an FFN.
        mlp: hidden channels of a head.
        conv: channels of a convolution.
        query: queries.
    """

    attn: Count | None = None
    ffn: Count | None = None
    mlp: Count | None = None
    conv: Count | None = None
    query: Count | None = None


@dataclass(frozen=True)
class SearchImages:
    """How many images a search looks at.

    Attributes:
        eval_images: validation images of a full evaluation; 0: all.
        subset_images: those of the subset evaluation.
        score_images: training images that tell candidates or damage apart (default: 64; gp, modular: 16).
        calib_images: other training images, of the closed form's statistics.
    """

    eval_images: CountOrNone = 0
    subset_images: Count = 100
    score_images: Count | None = None
    calib_images: Count = 200


@dataclass(frozen=True)
class MendOptions:
    """How slim models learn the dense model's answers.

    Attributes:
        steps: steps that mend a narrower model on training images, without labels; 0: the closed form alone.
        images: training images to mend with, whose activations are kept; 0: all.
        augment: how all training images change, over and over, to mend with where the backbone is cut.
        hold: mended models that are to hold, each narrower than the last.
    """

    steps: CountOrNone = 1100
    images: CountOrNone = 2000
    augment: str = field(default="detr", metadata={"choices": AUGMENTATIONS})
    hold: CountOrNone = field(default=1, metadata={"flag": "mends"})


@dataclass(frozen=True)
class GrowthOptions:
    """How the sites of one kind grow, in the published schedules.

    Attributes:
        map_tol: a site is done when its AP is at least (1 - map_tol) * target.
        skip_eval_converge: the full evaluation is skipped while the subset's AP is below (1 - this) * target.
        num_evaluate: candidates scored in a round, drawn at random; 0: all.
    """

    map_tol: ShareBelowOne = 0.02
    skip_eval_converge: ShareBelowOne | None = None
    num_evaluate: CountOrNone = 32


@dataclass(frozen=True)
class SearchOptions:
    """Everything about a search that decides its result.

    Attributes:
        schedule: `global`: every site weighed against every other; `gp`, `modular`: one site after another, as
            published.
        map_tol: share of the dense AP that may be lost.
        metric: what AP is: `coco`; `voc07`, `voc10`: VOC's at an overlap of 0.5; `kitti`: the level `moderate`.
        cost: what is saved: `flops`, `params` or `latency`.
        budget: the best AP with this share of the dense model's cost, instead of the least cost for `map_tol`.
        prune: parts of the detector whose sites are searched; empty: the family's choice.
        scorer: what a site keeps: the closed form (`basis`), or channels by a score.
        refit: what reads the kept channels is solved again.
        skip_eval_converge: no full evaluation while the subset's AP is below (1 - this) x target; None: `map_tol`.
        rounds: moves of channels between sites, at most; None: 0, and without mending 6.
        steps: by how much widths change; what is None is the site's own choice.
        images: how many images are looked at.
        mend: how slim models are mended.
        attn: how attention sites grow, in the published schedules.
        ffn: how all other sites grow there.
        site_decay: `gp`: the target falls by this share of the dense AP a site.
        pareto: proposals that spread over all budgets, after the search.
        refine: proposals by one of Optuna's samplers, after those.
        sampler: which: `tpe` or `nsgaii`.
        seed: draws candidates, subset and scoring images.
        batch_size: images at once.
        amp: mixed precision: `none`, `bf16` or `fp16`.
    """

    schedule: str = field(default="global", metadata={"choices": SCHEDULES})
    map_tol: ShareBelowOne = 0.02
    metric: str = field(default=COCO, metadata={"choices": tuple(METRICS)})
    cost: str = field(default="flops", metadata={"choices": COSTS})
    budget: Budget | None = None
    prune: tuple[str, ...] = ()
    scorer: str = field(default="basis", metadata={"choices": SCORERS})
    refit: bool = True
    skip_eval_converge: ShareBelowOne | None = None
    rounds: CountOrNone | None = None
    steps: Steps = field(default=Steps(), metadata={"flag": "{}_step"})
    images: SearchImages = field(default=SearchImages(), metadata={"flag": "{}"})
    mend: MendOptions = field(default=MendOptions(), metadata={"flag": "mend_{}"})
    attn: GrowthOptions = field(default=GrowthOptions(), metadata={"flag": "attn.{}"})
    ffn: GrowthOptions = field(default=GrowthOptions(num_evaluate=96), metadata={"flag": "ffn.{}"})
    site_decay: ShareBelowOne = 0.0112
    pareto: CountOrNone = 0
    refine: CountOrNone = 0
    sampler: str = field(default="tpe", metadata={"choices": SAMPLERS})
    seed: Seed = 0
    batch_size: Count = 25
    amp: str = field(default="none", metadata={"choices": PRECISIONS})

    def __post_init__(self) -> None:
        if not isinstance(self.prune, tuple) or not all(isinstance(name, str) for name in self.prune):
            raise UserError(f"option prune is {self.prune!r}; give a tuple of names of parts")
        for part in (self, self.steps, self.images, self.mend, self.attn, self.ffn):
            check_ranges(part, lambda name: f"option {name}")
            check_types(part, lambda name: f"option {name}")
            for each in fields(part):
                value, choices = getattr(part, each.name), each.metadata.get("choices")
                if choices and value not in choices:
                    raise UserError(f"option {each.name} is {value!r}; choose one of {', '.join(choices)}")

    @property
    def published(self) -> bool:
        """Whether sites grow one after another, as published."""
        return self.schedule in PUBLISHED

    @property
    def mends(self) -> bool:
        """Whether any model is mended."""
        return bool(self.mend.steps and self.mend.hold)

    @property
    def gate(self) -> float:
        """Share of the target that the subset may miss without the full evaluation being skipped."""
        return self.map_tol if self.skip_eval_converge is None else self.skip_eval_converge

    @property
    def moves(self) -> int:
        """Moves that are tried at most."""
        return (0 if self.mends else 6) if self.rounds is None else self.rounds

    def step(self, site: Site) -> int:
        """By how much the width of a site changes."""
        if isinstance(site, AttentionSite):
            return (self.steps.attn or 1) * site.grain
        if isinstance(site, CountSite):
            return self.steps.query or site.step if site.queries else site.step
        if isinstance(site, HiddenSite):
            asked = {"ffn": self.steps.ffn, "mlp": self.steps.mlp, "conv": self.steps.conv}[site.sort]
            return min(asked or site.step, site.full)
        return site.step

    def growth(self, site: Site) -> GrowthOptions:
        """How a site grows in the published schedules."""
        return self.attn if isinstance(site, AttentionSite) else self.ffn

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], place: str) -> "SearchOptions":
        """The options that a study stores.

        Args:
            settings: `settings`, and what else the study keeps beside them.
            place: the study, for messages.

        Raises:
            UserError: they are of another version, or were changed by hand.
        """
        if settings.get("version") != VERSION:
            raise UserError(f"{place} is of another version of this program; start a new study (--study NAME)")
        values: dict[str, Any] = {}
        try:
            for each in fields(cls):
                if each.name in settings:
                    stored, whole = settings[each.name], each.default
                    nested = is_dataclass(whole)
                    values[each.name] = replace(whole, **stored) if nested else stored  # type: ignore[type-var]
            parts = values.get("prune")
            return cls(**{**values, "prune": tuple(parts) if isinstance(parts, list) else parts})
        except (TypeError, UserError) as error:
            raise UserError(
                f"{place}: its settings are no search's ({error}); start a new one (--study NAME)"
            ) from None

    def settings(self) -> dict[str, Any]:
        """For a study: all but what is asked beyond the search, with which a finished study goes on."""
        beyond = ("pareto", "refine", "sampler")
        return {"version": VERSION, **{name: value for name, value in asdict(self).items() if name not in beyond}}
