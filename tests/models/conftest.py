import pytest
import torch

from greedyprune import build_model
from greedyprune.models import save_checkpoint

from .small_model import SHAPE


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    return build_model("dn_detr", temperature_h=10.0, temperature_w=30.0, **SHAPE).eval()


@pytest.fixture(scope="module")
def ours(dense, tmp_path_factory):
    """A checkpoint of this project."""
    path = tmp_path_factory.mktemp("ours") / "model.safetensors"
    save_checkpoint(dense, path)
    return path
