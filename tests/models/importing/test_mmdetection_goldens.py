"""Outputs of MMDetection's own models, for weights filled by a rule. `GREEDYPRUNE_GOLDENS=DIR` runs another folder."""

import pytest
import torch

from greedyprune import load_model
from greedyprune.answer import Answer
from greedyprune.models import postprocess

from ...helpers.goldens import Golden, names_of
from .small_mmdetection import save_training

NAMES = names_of(framework="mmdet")
pytestmark = pytest.mark.skipif(not NAMES, reason="the folder has no golden of MMDetection")


@pytest.fixture(scope="module", params=NAMES)
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    """What a user's training file with the golden's weights loads as."""
    config = golden.said["config"]
    settings = {"num_queries": config["num_queries"]}
    for theirs, name in (("with_box_refine", "with_box_refine"), ("as_two_stage", "two_stage")):
        if name in config:
            settings[theirs] = config[name]
    path = save_training(tmp_path_factory.mktemp("golden") / "epoch_50.pth", golden.state, f"model = {settings}")
    loaded = load_model(path)
    path.unlink()
    return loaded


def test_the_shape_comes_from_the_tensors(golden, model):
    config, options = golden.said["config"], model.options
    sizes = config["enc_layers"], config["dec_layers"], config["hidden_dim"], config["dim_feedforward"]
    assert (options.enc_layers, options.dec_layers, options.hidden_dim, options.ffn_dim) == sizes
    assert (options.backbone, options.heads) == (config["backbone"], config["nheads"])
    assert (options.num_classes, options.num_queries) == (config["num_classes"], config["num_queries"])
    for name in ("num_feature_levels", "enc_n_points", "dec_n_points", "two_stage", "with_box_refine"):
        if hasattr(options, name) and name in config:
            assert getattr(options, name) == config[name]
    assert model.widths == options.dense_widths()


def test_outputs_and_detections_agree(golden, model):
    with torch.no_grad():
        answer = model(golden.images)
    golden.assert_outputs(answer)
    first = Answer(answer.logits[:1], answer.boxes[:1])
    (found,) = postprocess(first, torch.tensor([[480, 640]]), top_k=len(golden.wanted["post_scores"]))
    golden.assert_detections(found)
