"""`basis`: attention rewritten in the basis that carries most; FFN channels by forward selection."""

from greedyprune.pruning.cut import BasisCut, KeptCut, SiteCut
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.scorers.select import selected


def basis_cuts(given: Given, refit: bool = True) -> dict[str, SiteCut]:
    """The closed form of every site, by its name."""
    cuts: dict[str, SiteCut] = {}
    for site in given.layer_sites:
        moments = given.moments[site.name]
        if site.kind == "ffn" or site.unit > 1:  # a head that leaves whole needs no basis
            order = selected(site, given.state, moments)
            cuts[site.name] = KeptCut(site, given.state, order, moments if refit else None)
        else:
            cuts[site.name] = BasisCut(site, given.state, moments, refit)
    return cuts
