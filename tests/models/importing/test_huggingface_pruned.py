"""Pruned models that `transformers` saves with the config of the dense one, and does not load again, are imported."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from greedyprune.models import build_model
from greedyprune.models.importing.config import Config
from greedyprune.models.importing.huggingface_deformable import convert_deformable

from .small_huggingface import SHAPE, imported, randomised, resnet, transformers, variant

INNER = "encoder.stages.{}.layers.{}.layer.{}."
# A published study: DeformableDetrForObjectDetection fine-tuned on three classes of KITTI, whose bottlenecks keep
# these channels at 0, 10 ... 50 % of filters pruned, and all parameters with those of batch norm.
STUDY = {
    (64, 128, 256, 512): 40_100_169,
    (56, 112, 224, 456): 36_561_353,
    (48, 96, 200, 408): 33_852_841,
    (40, 88, 176, 352): 31_188_073,
    (32, 72, 152, 304): 28_908_105,
    (32, 64, 128, 256): 26_925_001,
}


def pruned(state, widths, depths, convolutions):
    """The state dict with so many channels within every block of a stage."""
    state = dict(state)
    for stage, width in enumerate(widths):
        for block in range(depths[stage]):
            for inner in range(convolutions - 1):
                prefix = INNER.format(stage, block, inner)
                reader = INNER.format(stage, block, inner + 1) + "convolution.weight"
                for key, value in state.items():
                    if prefix in key and value.dim():
                        state[key] = value[:width]
                    elif key.endswith(reader):
                        state[key] = value[:, :width]
    return state


@pytest.fixture(scope="module")
def study():
    """The shapes of the study's dense model, in tensors of one number, and its config."""
    backbone = transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    names = {0: "Car", 1: "Pedestrian", 2: "Cyclist"}
    config = transformers.DeformableDetrConfig(backbone_config=backbone, id2label=names)
    with torch.device("meta"):
        shapes = transformers.DeformableDetrForObjectDetection(config).state_dict()
    return {key: torch.zeros(1).expand(value.shape) for key, value in shapes.items()}, config.to_dict()


@pytest.mark.parametrize(("widths", "count"), STUDY.items())
def test_models_of_the_kitti_study_have_their_widths_and_their_parameters(study, widths, count):
    state = pruned(study[0], widths, depths=(3, 4, 6, 3), convolutions=3)
    options, found, _ = convert_deformable(state, Config(study[1], "config.json"))
    kept = [[found[f"backbone.{block}.{kind}"] for kind in ("conv1", "conv2")] for block in range(16)]
    depths = zip(widths, (3, 4, 6, 3), strict=True)
    assert kept == [[width] * 2 for width, depth in depths for _ in range(depth)]
    with torch.device("meta"):
        model = build_model("deformable_detr", found, **options.to_dict())
    parameters = {id(value): value for value in model.parameters()}
    norms = [value for key, value in model.backbone.state_dict().items() if ".bn" in key or ".downsample.1." in key]
    affine = sum(value.numel() for value in norms if value.dim()) // 2  # running mean and variance are the other half
    assert sum(value.numel() for value in parameters.values()) + affine == count


def test_a_pruned_file_beside_the_dense_config_is_imported(tmp_path):
    config = transformers.DeformableDetrConfig(
        backbone_config=resnet(["stage2", "stage3", "stage4"]), d_model=32, **SHAPE
    )
    dense = randomised(transformers.DeformableDetrForObjectDetection(config), ("conv_encoder",))
    dense.save_pretrained(tmp_path / "dense")
    here = variant(tmp_path / "dense", tmp_path / "pruned")
    (here / "model.safetensors").unlink()
    state = pruned(load_file(tmp_path / "dense" / "model.safetensors"), (40, 100, 200, 256), (2, 2, 2, 2), 2)
    save_file({key: value.contiguous() for key, value in state.items()}, here / "model.safetensors")
    model = imported(here, tmp_path / "ours.safetensors")
    assert [model.widths[f"backbone.{block}.conv1"] for block in range(8)] == [40, 40, 100, 100, 200, 200, 256, 256]
    with torch.no_grad():
        assert model([torch.randn(3, 64, 96)]).boxes.isfinite().all()
