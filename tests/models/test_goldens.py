"""Outputs, losses and gradients of the published models. `GREEDYPRUNE_GOLDENS=DIR` runs another folder."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from greedyprune import load_model
from greedyprune.answer import Answer
from greedyprune.models import Criterion, Denoising, postprocess
from greedyprune.models.importing.published import convert_keys

from ..helpers.goldens import GOLDENS, Golden, names_of
from .importing.small_mmdetection import save_training

NAMES = names_of(framework=None)
LOSS = {"rel": 1e-3, "abs": 1e-6}
# The softmax does not see what is added to every key alike: gradients of these are zero but for rounding, which is in
# proportion to what flows through the attention (norms of 1e3, and 1e-7 of that).
ZERO_IN_THEORY = ("sa_kcontent_proj.bias", "sa_kpos_proj.bias", "ca_kcontent_proj.bias", "ca_kpos_proj.bias")
GRADIENT_ROUNDING = 1e-4
# Losses to look at only, of which not every published criterion has all.
SHOWN = ("loss_xy", "loss_hw")


class Loaded(Golden):
    """A golden, and the model that a user's checkpoint with its weights loads as."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        content = {
            "model": self.state,
            "optimizer": {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
            "epoch": 49,
            "args": Namespace(**self.said["config"], output_dir=Path("logs"), lr=np.float64(1e-4)),
        }
        path = folder / "checkpoint.pth"
        torch.save(content, path)
        self.model = load_model(path)
        path.unlink()
        with torch.no_grad():
            self.answer = self.model(self.images)


@pytest.fixture(scope="module", params=NAMES)
def golden(request, tmp_path_factory):
    return Loaded(request.param, tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def training(golden):
    """Losses by name, total, weights and gradients of a training step with the golden's denoising."""
    model = golden.model.train()
    criterion = Criterion(model.options.num_classes)
    losses = criterion(model(golden.images, golden.targets, Denoising(**golden.said["train"])), golden.targets)
    total = criterion.total(losses)
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    model.zero_grad(set_to_none=True)
    model.eval()
    return {name: loss.item() for name, loss in losses.items()}, total.item(), criterion.weight_dict(losses), gradients


def known(losses, wanted):
    """Numbers by name, without those to look at that the published criterion does not have."""
    return {name: float(loss) for name, loss in losses.items() if name in wanted or not name.startswith(SHOWN)}


def test_the_folder_has_goldens():
    assert [*GOLDENS.glob("*.json")], f"no golden in {GOLDENS}"


def test_the_shape_comes_from_the_tensors(golden):
    config, options = golden.said["config"], golden.model.options
    sizes = config["enc_layers"], config["dec_layers"], config["hidden_dim"], config["dim_feedforward"]
    assert (options.enc_layers, options.dec_layers, options.hidden_dim, options.ffn_dim) == sizes
    dense = options.dense_widths()
    assert golden.model.widths == (options.layout.parse(golden.said["cfgs"]) if golden.said["cfgs"] else dense)
    assert options.backbone == config["backbone"]
    assert options.num_queries == config["num_queries"]
    for name in ("num_patterns", "num_feature_levels", "enc_n_points", "dec_n_points", "two_stage"):
        if hasattr(options, name):  # DN-DETR's goldens name options of the deformable detectors, too
            assert getattr(options, name) == config.get(name, 0)
    assert options.activation == config["transformer_activation"]
    assert (options.heads, options.dilation) == (config["nheads"], config["dilation"])


def test_eval_outputs_agree(golden):
    golden.assert_outputs(golden.answer)


def test_eval_losses_agree(golden):
    losses = Criterion(golden.model.options.num_classes)(golden.answer, golden.targets)
    wanted = dict(golden.said["eval_losses"])
    # The published criterion lists the denoising losses in eval mode, too, as zeros.
    denoising = {name: wanted.pop(name) for name in list(wanted) if name.startswith("tgt_")}
    assert not any(denoising.values())
    assert known(losses, wanted) == pytest.approx(wanted, **LOSS)


def test_training_losses_with_denoising_agree(golden, training):
    losses, total, weights, _ = training
    wanted = golden.said["losses"]
    assert known(losses, wanted) == pytest.approx(wanted, **LOSS)
    assert total == pytest.approx(golden.said["total_loss"], **LOSS)
    # The published weights name the losses of a first stage, too, where there is none.
    assert weights == {name: weight for name, weight in golden.said["weight_dict"].items() if name in losses}


def test_gradient_norms_agree(golden, training):
    gradients = training[3]
    for published, wanted in golden.said["grad_norms"].items():
        (name,) = convert_keys({published: torch.empty(0)})
        norm = gradients[name].norm().item()
        if published.endswith(ZERO_IN_THEORY):
            assert max(norm, wanted) < GRADIENT_ROUNDING, published
        else:
            assert norm == pytest.approx(wanted, rel=1e-3, abs=GRADIENT_ROUNDING / 10), published


def test_post_processing_agrees(golden):
    golden.assert_detections(detections(golden, golden.answer))


def detections(golden, answer):
    """The first image's, at 480 x 640."""
    first = Answer(answer.logits[:1], answer.boxes[:1])
    (found,) = postprocess(first, torch.tensor([[480, 640]]), top_k=len(golden.wanted["post_scores"]))
    return found


@pytest.mark.parametrize("name", names_of(framework="mmdet"))
def test_training_files_of_mmdetection_answer_as_mmdetection_does(name, tmp_path):
    golden = Golden(name)
    config = golden.said["config"]
    flags = {"with_box_refine": config.get("with_box_refine", False), "as_two_stage": config.get("two_stage", False)}
    settings = {"num_queries": config["num_queries"], **flags}
    model = load_model(save_training(tmp_path / "epoch_50.pth", golden.state, f"model = {settings}"))
    options = model.options
    sizes = config["enc_layers"], config["dec_layers"], config["hidden_dim"], config["dim_feedforward"]
    assert (options.enc_layers, options.dec_layers, options.hidden_dim, options.ffn_dim) == sizes
    assert (options.backbone, options.heads) == (config["backbone"], config["nheads"])
    assert (options.num_classes, options.num_queries) == (config["num_classes"], config["num_queries"])
    for option in ("num_feature_levels", "enc_n_points", "dec_n_points", "two_stage", "with_box_refine"):
        if hasattr(options, option) and option in config:
            assert getattr(options, option) == config[option]
    assert model.widths == options.dense_widths()
    with torch.no_grad():
        answer = model(golden.images)
    golden.assert_outputs(answer)
    golden.assert_detections(detections(golden, answer))
