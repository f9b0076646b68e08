"""Outputs of the published models, for weights filled by a rule. `GREEDYPRUNE_GOLDENS=DIR` runs another folder."""

import importlib.util
import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from greedyprune import load_model
from greedyprune.answer import Answer
from greedyprune.models import Criterion, Denoising, postprocess
from greedyprune.models.published import convert_keys

GOLDENS = Path(os.environ.get("GREEDYPRUNE_GOLDENS") or Path(__file__).parents[1] / "data" / "goldens")
NAMES = sorted(path.stem for path in GOLDENS.glob("*.json"))
OUTPUT = {"rtol": 1e-3, "atol": 1e-4}
LOSS = {"rel": 1e-3, "abs": 1e-6}
# The softmax does not see what is added to every key alike: gradients of these are zero but for rounding, which is in
# proportion to what flows through the attention (norms of 1e3, and 1e-7 of that).
ZERO_IN_THEORY = ("sa_kcontent_proj.bias", "sa_kpos_proj.bias", "ca_kcontent_proj.bias", "ca_kpos_proj.bias")
GRADIENT_ROUNDING = 1e-4
# Losses to look at only, of which not every published criterion has all.
SHOWN = ("loss_xy", "loss_hw")


class Golden:
    """A golden, and the model that a user's checkpoint with its weights loads as."""

    def __init__(self, name: str, folder: Path) -> None:
        self.said = json.loads((GOLDENS / f"{name}.json").read_text())
        self.wanted = np.load(GOLDENS / f"{name}.npz")
        spec = importlib.util.spec_from_file_location("fill", GOLDENS / "fill.py")
        fill = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fill)
        self.images = [torch.from_numpy(image) for image in fill.images(self.said["sizes"], self.said["image_seed"])]
        self.targets = [
            {key: torch.from_numpy(value) for key, value in target.items()}
            for target in fill.targets(self.said["target_seed"], self.said["target_counts"])
        ]
        shapes = self.said["state_dict"]
        state = {key: torch.from_numpy(np.asarray(fill.fill(key, tuple(shape)))) for key, shape in shapes.items()}
        content = {
            "model": state,
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


# The slim one is the dense one's code, and the encoder alone half of what all deformable attention is.
SLOW = ("dn_detr_r50_slim_mgp", "dn_deformable_encoder_only_r50")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NAMES]
)
def golden(request, tmp_path_factory):
    return Golden(request.param, tmp_path_factory.mktemp("golden"))


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
    assert NAMES, f"no golden in {GOLDENS}"


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
    for name in ("logits", "boxes"):
        np.testing.assert_allclose(getattr(golden.answer, name), golden.wanted[f"pred_{name}"], **OUTPUT)
        means = [getattr(layer, name).mean().item() for layer in golden.answer.earlier]
        np.testing.assert_allclose(means, golden.wanted[f"aux_{name}_mean"], **OUTPUT)


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
    wanted = {name: golden.wanted[f"post_{name}"] for name in ("scores", "labels", "boxes")}
    first = Answer(golden.answer.logits[:1], golden.answer.boxes[:1])
    (found,) = postprocess(first, torch.tensor([[480, 640]]), top_k=len(wanted["scores"]))
    found = {name: value.numpy() for name, value in found.items()}
    np.testing.assert_allclose(found["scores"], wanted["scores"], **OUTPUT)
    assert (np.diff(found["scores"]) <= 0).all()
    # Scores that rounding cannot tell apart may come in either order, so detections are looked up instead of lined up;
    # at the end of the list a twin may have fallen off it.
    apart = np.abs(found["scores"][:, None] - wanted["scores"][None])  # [found, wanted]
    pixels = np.abs(found["boxes"][:, None] - wanted["boxes"][None])  # [found, wanted, 4]
    same = apart <= OUTPUT["atol"] + OUTPUT["rtol"] * wanted["scores"]
    same &= (pixels <= OUTPUT["atol"] * 640 + OUTPUT["rtol"] * np.abs(wanted["boxes"])).all(-1)
    same &= found["labels"][:, None] == wanted["labels"][None]
    inside = wanted["scores"] > wanted["scores"][-1] * (1 + OUTPUT["rtol"]) + OUTPUT["atol"]
    assert same.any(0)[inside].all()
    assert same.any(1)[: inside.sum()].all()
