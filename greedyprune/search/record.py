"""What a search knows: finished proposals, in order. Everything else follows from them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One proposal that was scored, evaluated and recorded: a trial.

    Attributes:
        site: the site that grew.
        round: its round, from 0.
        kept: the site's kept channels after this round, ascending.
        widths: site name -> width of the whole proposed model.
        loss: detection loss of the best candidate on the scoring images; None when there was no choice: all candidates
            were added, or the site went back to dense.
        subset_map: AP on the validation subset.
        full_map: AP on all validation images; None when the early skip left it out.
        target: AP that the site must hold.
        done: the site is finished with this kept set.
        params: parameters of the proposed model.
        flops: its multiply-adds for one image.
        image_forwards: images that went through (a part of) the Transformer for this proposal.
        seconds: time it took, without recording.
    """

    site: str
    round: int
    kept: tuple[int, ...]
    widths: dict[str, int]
    loss: float | None
    subset_map: float
    full_map: float | None
    target: float
    done: bool
    params: int
    flops: int
    image_forwards: int
    seconds: float


@dataclass(frozen=True)
class Baseline:
    """The dense model as measured before the first proposal.

    Attributes:
        subset_map: AP on the validation subset.
        full_map: AP on all validation images.
        image_forwards: images it took.
        seconds: time it took.
    """

    subset_map: float
    full_map: float
    image_forwards: int
    seconds: float
