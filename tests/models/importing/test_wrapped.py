"""Weights are found in whatever training frameworks put around them, and chosen by key where there are several."""

import pytest
import torch
from safetensors.torch import save_file

from greedyprune import UserError, load_model
from greedyprune.models import read_checkpoint
from greedyprune.models.importing.wrapped import unwrap

from ..small_model import ARGUMENTS, answer, published, refused


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def other(state):
    """Another set of weights of the same model."""
    return {key: value * 2 if value.is_floating_point() else value for key, value in state.items()}


WRAPPERS = {
    "nothing": lambda state: state,
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "parts compiled": lambda state: {
        key.replace("transformer.encoder.", "transformer.encoder._orig_mod."): value for key, value in state.items()
    },
    "data parallel": lambda state: prefixed("module.", state),
    "data parallel of compiled": lambda state: prefixed("module._orig_mod.", state),
    "compiled data parallel": lambda state: prefixed("_orig_mod.module.", state),
    "Lightning": lambda state: {
        "state_dict": prefixed("model.", state),
        "hyper_parameters": {"lr": 1e-4},
        "pytorch-lightning_version": "2.4",
    },
    "Lightning, compiled, data parallel": lambda state: {"state_dict": prefixed("model._orig_mod.module.", state)},
    "Lightning with a criterion": lambda state: {
        "state_dict": {**prefixed("model.", state), "criterion.empty_weight": torch.ones(7), "step": torch.ones(1)}
    },
    "Lightning with another name": lambda state: {"state_dict": prefixed("detector.net.", state)},
    **{
        name: lambda state, name=name: {name: state, "epoch": 3}
        for name in ("model", "net", "ema", "model_ema", "ema_model", "state_dict", "model_state_dict", "student")
    },
    "timm's ema": lambda state: {"ema": {"module": state, "updates": 100}},
    "an optimizer by names": lambda state: {
        "model": state,
        "optimizer": {"state": {key: {"exp_avg": value, "step": torch.ones(())} for key, value in state.items()}},
    },
    "the same twice": lambda state: {"model": state, "state_dict": state},
    "a table of numbers beside it": lambda state: {"model": state, "means": {"a": torch.ones(3)}, "rng": torch.ones(9)},
    "another network beside it": lambda state: {"model": state, "critic": {"head.weight": torch.ones(2, 2)}},
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_one_set_of_weights_is_found(dense, tmp_path, kind):
    content = WRAPPERS[kind](published(dense, flat=kind == "data parallel"))
    torch.save({**content, "args": ARGUMENTS}, tmp_path / "a.pth")
    assert torch.equal(answer(load_model(tmp_path / "a.pth")), answer(dense))


def test_wrappers_of_safetensors_are_their_names(dense, tmp_path):
    state = {key: value.clone() for key, value in dense.state_dict().items()}
    save_file(prefixed("model._orig_mod.", state), tmp_path / "a.safetensors")
    options = {"heads": 4, "ffn_dim": 48, "temperature_h": 10.0, "temperature_w": 30.0}
    assert torch.equal(answer(load_model(tmp_path / "a.safetensors", **options)), answer(dense))


SEVERAL = {
    "side by side": (lambda a, b: {"model": a, "ema": b}, "model, ema", "model", "ema"),
    "inside": (lambda a, b: {"state_dict": {"net": a, "ema": b}}, "state_dict.net, state_dict.ema", *("net", "ema")),
    "by names": (
        lambda a, b: {"state_dict": {**prefixed("model.", a), **prefixed("ema_model.module.", b)}},
        "state_dict.ema_model.module, state_dict.model",
        *("model", "ema_model"),
    ),
    "beside": (lambda a, b: {**a, "ema": b}, "., ema", ".", "ema"),
    "deep": (lambda a, b: {"model": a, "ema": {"module": b, "updates": 3}}, "model, ema.module", "model", "ema"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_sets_of_weights_one_must_be_chosen(dense, tmp_path, kind):
    wrap, listed, first, second = SEVERAL[kind]
    state = published(dense)
    torch.save({**wrap(state, other(state)), "args": ARGUMENTS}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", f"several sets of weights: {listed}", "--key")
    start = "state_dict." if "state_dict" in listed else ""
    assert torch.equal(answer(load_model(tmp_path / "a.pth", key=f"{start}{first}")), answer(dense))
    chosen = load_model(tmp_path / "a.pth", key=f"{start}{second}")
    assert torch.equal(chosen.class_embed.weight, 2 * dense.class_embed.weight)
    # Every key that the message lists is one that can be given.
    for key in listed.split(", "):
        load_model(tmp_path / "a.pth", key=key)
    refused(tmp_path / "a.pth", "no tensors under 'other'", key="other")


def test_a_key_chooses_among_what_is_not_known(dense, tmp_path):
    torch.save({"a": {"x.weight": torch.ones(2)}, "b": {"c.x.weight": torch.ones(3)}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "several sets of weights: a, b;")
    assert read_checkpoint(tmp_path / "a.pth", "b.c")[0]["x.weight"].shape == (3,)
    assert read_checkpoint(tmp_path / "a.pth", "a")[0]["x.weight"].shape == (2,)


def test_a_key_for_a_file_of_this_project_is_refused(ours):
    refused(ours, "--key ema", "of this project", key="ema")


def test_a_name_that_is_there_compiled_and_not_is_refused():
    state = {"transformer.encoder.layers.0.a.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"holds transformer\.encoder\.layers\.0\.a\.weight twice"):
        unwrap({**state, **prefixed("_orig_mod.", state)}, "it")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {}}, {3: torch.ones(2)}, {"model": [torch.ones(2)]}])
def test_without_tensors_the_keys_are_named(content):
    with pytest.raises(UserError, match=r"it holds no tensors: its keys are (none|epoch|model|3)"):
        unwrap(content, "it")
