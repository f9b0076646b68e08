"""Channels of convolutions, followed from what writes them to what reads them through one forward pass."""

from greedyprune.families.channels.found import Found, convolution_sites
from greedyprune.families.channels.modules import register
from greedyprune.families.channels.tracer import Tracer

__all__ = ["Found", "Tracer", "convolution_sites", "register"]
