"""Darknet's detectors with a region layer: YOLOv2 and its relatives, from `.cfg` and `.weights` files."""

from greedyprune.models.darknet.cfg import Cfg, read_cfg
from greedyprune.models.darknet.checkpoint import load_darknet, save_darknet
from greedyprune.models.darknet.network import Darknet
from greedyprune.models.darknet.options import DarknetInfo

__all__ = ["Cfg", "Darknet", "DarknetInfo", "load_darknet", "read_cfg", "save_darknet"]
