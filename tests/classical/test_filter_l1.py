"""`filter_l1`: the KITTI study's widths and parameter counts, and filters by the sum of |w| that really leave."""

from pathlib import Path

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from greedyprune import UserError, build_model, load, save
from greedyprune.classical import METHODS, Subject
from greedyprune.classical.widths import kept_width
from greedyprune.families import family_of
from greedyprune.pruning.transplant import masked
from greedyprune.sites import HiddenSite

from ..helpers.engine import GRID, farthest, subject

METHOD = METHODS["filter_l1"]
DENSE = 40_100_169
# Share -> the study's inner widths of ResNet-50's four stages, and the parameters of the whole detector.
STUDY = {
    0.1: ((56, 112, 224, 456), 36_561_353),
    0.2: ((48, 96, 200, 408), 33_852_841),
    0.3: ((40, 88, 176, 352), 31_188_073),
    0.4: ((32, 72, 152, 304), 28_908_105),
    0.5: ((32, 64, 128, 256), 26_925_001),
}


def of(one) -> Subject:
    return Subject(one.family, one.model)


def parameters(model: torch.nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def with_norms(model: torch.nn.Module) -> int:
    """Parameters, the scale and shift of frozen batch norms too, which are buffers here and parameters in the study."""
    norms = [each for each in model.modules() if isinstance(each, FrozenBatchNorm2d)]
    return parameters(model) + sum(norm.weight.numel() + norm.bias.numel() for norm in norms)


def check_study(model: torch.nn.Module) -> None:
    one = Subject(family_of(model), model)
    assert with_norms(model) == DENSE
    for share, (widths, count) in STUDY.items():
        slim = METHOD.apply(one, share)
        assert {site.full for site in Subject(one.family, slim).convolutions} == set(widths)
        assert with_norms(slim) == count


@pytest.mark.slow
def test_the_study_of_kitti_comes_out_to_the_parameter() -> None:
    check_study(build_model("deformable_detr", num_classes=3, backbone="resnet50"))


@pytest.mark.slow
def test_the_study_comes_out_of_an_imported_huggingface_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from greedyprune.commands.import_hf import main

    backbone = transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    names = {0: "Car", 1: "Pedestrian", 2: "Cyclist"}
    config = transformers.DeformableDetrConfig(backbone_config=backbone, id2label=names)
    transformers.DeformableDetrForObjectDetection(config).save_pretrained(tmp_path)
    assert main([str(tmp_path), "--output", str(tmp_path / "ours.safetensors")]) == 0
    check_study(load(tmp_path / "ours.safetensors"))


def test_widths_are_the_studys_rule() -> None:
    def width(full: int, share: float, multiple: int = 8) -> int:
        about = {"name": "it", "label": "it", "part": "backbone", "readers": ()}
        return kept_width(HiddenSite(full=full, **about), share, multiple)

    assert [width(512, share) for share in STUDY] == [456, 408, 352, 304, 256]
    assert [width(20, share) for share in (0, 0.04, 0.1, 0.99)] == [20, 20, 16, 8]
    assert [width(6, share) for share in (0.5, 0.99)] == [6, 6]
    assert width(6, 0.5, 1) == 3


@pytest.mark.parametrize("kind", [GRID, "dn_detr", "deformable, two stages"])
def test_filters_of_the_smallest_sums_leave_and_nothing_else_changes(kind: str) -> None:
    one = subject(kind)
    slim = METHOD.apply(of(one), 0.5)
    state = one.model.state_dict()
    kept = {}
    for site in of(one).convolutions:
        weight = state[next(part.name for part in site.slices if state[part.name].dim() == 4)]
        sums = weight.abs().sum((1, 2, 3))
        width = next(each.full for each in one.family.sites(slim) if each.name == site.name)
        assert width == max(8, (site.full - site.full // 2) // 8 * 8) < site.full
        kept[site.name] = tuple(sorted(sums.topk(width).indices.tolist()))
    assert farthest(one.answer(slim), one.answer(masked(one.family, one.model, kept))) < 1e-4


@pytest.mark.slow
def test_a_slim_model_loads_anywhere(tmp_path: Path) -> None:
    one = subject()
    slim = METHOD.apply(of(one), 0.4)
    save(slim, tmp_path / "slim.safetensors")
    assert farthest(one.answer(load(tmp_path / "slim.safetensors")), one.answer(slim)) == 0


@pytest.mark.parametrize("kind", [GRID, "dn_detr"])
def test_the_published_rule_zeroes_rows_alone_and_says_what_a_cut_would_leave(kind: str) -> None:
    one = subject(kind)
    found = METHOD.published(of(one), 0.5)
    zeros = one.family.slim(one.model, found.change)
    before, after = one.model.state_dict(), zeros.state_dict()
    for name, tensor in before.items():
        changed = (after[name] != tensor).flatten(1).any(1) if tensor.dim() > 1 else after[name] != tensor
        assert changed.any() == (name in found.kept)
        if name in found.kept:
            rows = found.kept[name].flatten(1)
            assert torch.equal(rows.any(1), rows.all(1))
            assert torch.equal(changed, ~rows.any(1))
            assert not after[name][changed].any()
    assert parameters(zeros) == parameters(one.model)
    cut = one.family.slim(one.model, found.cut)
    assert parameters(cut) == parameters(METHOD.apply(of(one), 0.5)) < parameters(one.model)
    assert farthest(one.answer(cut), one.answer(METHOD.apply(of(one), 0.5))) == 0


def test_a_detector_without_convolution_sites_and_an_amount_of_all_are_refused() -> None:
    one = subject(GRID)

    class Without(type(one.family)):
        def sites(self, model):
            return []

    with pytest.raises(UserError, match="this grid detector has no convolution whose filters can leave"):
        METHOD.apply(Subject(Without(), one.model), 0.3)
    with pytest.raises(UserError, match=r"filter_l1: the amount is 1.0, it must be a number of at least 0 and below 1"):
        METHOD.apply(of(one), 1.0)
