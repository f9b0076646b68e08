"""The sites of Darknet's detectors."""

from greedyprune.models.darknet.network import Darknet
from greedyprune.sites import FlatLayout, Layout, Site


def darknet_sites(model: Darknet) -> tuple[Site, ...]:
    """What can be made less: none, until convolutions are traced from the channels' writers to their readers."""
    return ()


def darknet_layout(model: Darknet) -> Layout:
    """The list form of the widths of a detector and of its dense twin."""
    return FlatLayout(darknet_sites(model))
