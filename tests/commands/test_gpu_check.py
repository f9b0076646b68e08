"""The checks of a GPU run on a CPU, too, as far as they are cheap there."""

import pytest
import torch

from greedyprune.commands import gpu_check
from greedyprune.commands.gpu_check import agreement, closed_form, main
from greedyprune.errors import UserError

from ..helpers.detectors import IMAGES, detector

CPU = torch.device("cpu")
KINDS = ("dn_detr", "deformable", "deformable encoder")


@pytest.mark.parametrize("kind", KINDS)
def test_all_forms_of_a_detector_agree(kind: str) -> None:
    rows = agreement(detector(kind), CPU, IMAGES)
    assert [name for name, _, _ in rows] == [
        "float32 on the device = CPU",
        "deployed = plain",
        "deployed for one size = plain",
        "slim = masked",
        "bf16 = float32",
    ]
    assert all(holds for _, _, holds in rows), rows


def test_mending_brings_a_cut_detector_nearer_to_the_dense_one() -> None:
    ((_, measured, holds),) = closed_form(detector(), CPU, IMAGES, steps=20)
    assert holds, measured


def test_a_check_that_breaks_is_a_row_and_the_others_run_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(gpu_check, "closed_form", broken)
    monkeypatch.setattr(gpu_check, "compilation", lambda *_: [("compiled = plain", "0", True)])
    assert main(["--device", "cpu", "--checks", "closed_form", "compile"]) == 1
    shown = capsys.readouterr().out
    assert "RuntimeError: no kernel image" in shown
    assert "compiled = plain" in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line() -> None:
    with pytest.raises(UserError, match="PyTorch sees no CUDA device here"):
        main([])
