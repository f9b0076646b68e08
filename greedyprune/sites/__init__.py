"""Sites of models as data, and changes of their widths."""

from greedyprune.sites.change import Change, installed, put
from greedyprune.sites.convolution_layout import ConvolutionLayout
from greedyprune.sites.layout import FlatLayout, Layout
from greedyprune.sites.site import (
    AttentionSite,
    CountSite,
    HiddenSite,
    RatioSite,
    Reader,
    Setting,
    Site,
    Slice,
    Widths,
)
from greedyprune.sites.trimmed import Trimmed

__all__ = [
    "AttentionSite",
    "Change",
    "ConvolutionLayout",
    "CountSite",
    "FlatLayout",
    "HiddenSite",
    "Layout",
    "RatioSite",
    "Reader",
    "Setting",
    "Site",
    "Slice",
    "Trimmed",
    "Widths",
    "installed",
    "put",
]
