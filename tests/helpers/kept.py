"""Random kept sets."""

from collections.abc import Sequence

from hypothesis import strategies as st

from greedyprune.sites import AttentionSite, CountSite, Site


@st.composite
def kept_of(draw: st.DrawFn, site: Site) -> tuple[int, ...]:
    """A kept set of one site."""
    if isinstance(site, AttentionSite):
        units = range(site.group_width // site.unit)
        width = draw(st.integers(1, len(units)))
        channels = [
            group * site.group_width + unit * site.unit + channel
            for group in range(site.groups)
            for unit in draw(st.permutations(units))[:width]
            for channel in range(site.unit)
        ]
        return tuple(sorted(channels))
    units = draw(st.sets(st.integers(0, site.full // site.unit - 1), min_size=site.least // site.unit))
    return tuple(unit * site.unit + channel for unit in sorted(units) for channel in range(site.unit))


@st.composite
def kept_sets(draw: st.DrawFn, sites: Sequence[Site]) -> dict[str, tuple[int, ...]]:
    """Kept sets of some sites, which leave at least one item of every group of counts."""
    chosen = draw(st.lists(st.sampled_from(sites), min_size=1, unique_by=lambda site: site.name))
    kept = {site.name: draw(kept_of(site)) for site in chosen}
    groups = {site.one_of for site in sites if isinstance(site, CountSite) and site.one_of}
    for group in groups:
        members = [site for site in sites if isinstance(site, CountSite) and site.one_of == group]
        if all(kept.get(site.name, (0,)) == () for site in members):
            del kept[draw(st.sampled_from(members)).name]
    return kept
