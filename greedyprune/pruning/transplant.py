"""From kept sets to a slim model, without changing what it computes (DESIGN law 1)."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from greedyprune.cfgs import Cfgs
from greedyprune.models.detector import Detector
from greedyprune.pruning.kept import check_kept, kept_cfgs
from greedyprune.pruning.sites import Site, Slice, list_sites


def slim_tensors(site: Site, state: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
    """The site's tensors without its pruned channels.

    A slim head scales its logits by 1 / sqrt(its own width), so the dense head's scale is folded into the weights that
    make queries: they are multiplied by sqrt(slim width / dense width). A head that stays whole keeps its scale.

    Args:
        site: the site, with the width that `state` has.
        state: tensors by name.
        kept: ascending channels.

    Returns:
        New tensors by name.
    """
    index = torch.as_tensor(site.units(kept), device=state[site.slices[0].name].device)
    scale = math.sqrt(len(kept) / site.width) if site.unit == 1 else 1.0
    return {part.name: _select(site, part, state[part.name], index, scale) for part in site.slices}


def _select(site: Site, part: Slice, tensor: Tensor, index: Tensor, scale: float) -> Tensor:
    chosen = site.by_unit(part, tensor.detach()).index_select(1, index)  # [blocks, units kept, rows of a unit, ...]
    if "query" in part.roles:
        chosen[part.roles.index("query")] *= scale
    return chosen.flatten(0, 2).movedim(0, part.dim).contiguous()


@contextmanager
def replaced(model: Detector, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Other tensors, also of other shapes, inside the model, in place; its own are back afterwards.

    Everything that reads shapes from tensors (running, counting parameters and multiply-adds) sees the new ones.
    """
    own = {name: _get_tensor(model, name) for name in tensors}
    replace_tensors(model, tensors)
    try:
        yield
    finally:
        for name, tensor in own.items():
            _set_tensor(model, name, tensor)


def replace_tensors(model: Detector, tensors: Mapping[str, Tensor]) -> None:
    """Other tensors inside the model, for good; the model's `cfgs` keep telling its first shape.

    Args:
        model: the model.
        tensors: parameters and buffers by their names in the state dict.
    """
    for name, tensor in tensors.items():
        own = _get_tensor(model, name)
        if isinstance(own, nn.Parameter):
            _set_tensor(model, name, nn.Parameter(tensor.detach(), requires_grad=own.requires_grad))
        else:
            _set_tensor(model, name, tensor.detach())


@contextmanager
def slim_site(model: Detector, site: Site, kept: Sequence[int]) -> Iterator[None]:
    """The site slim inside the model, in place; its full tensors are back afterwards."""
    with replaced(model, _slim(model, site, kept)):
        yield


def shrink_site(model: Detector, site: Site, kept: Sequence[int]) -> None:
    """Make the site slim inside the model, for good."""
    replace_tensors(model, _slim(model, site, kept))


def _slim(model: Detector, site: Site, kept: Sequence[int]) -> dict[str, Tensor]:
    return slim_tensors(site, {part.name: _get_tensor(model, part.name) for part in site.slices}, kept)


def _get_tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    tensor = getattr(model.get_submodule(owner), attribute)
    assert isinstance(tensor, Tensor)
    return tensor


def _set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """A parameter or a buffer; the module knows which of them the name is."""
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, tensor)


def transplant(model: Detector, kept: Mapping[str, Sequence[int]]) -> Detector:
    """A slim model with the surviving weights.

    Args:
        model: the dense model, or one that is already slim; it is not changed.
        kept: site name -> channels of that site in `model`; a site that is not named stays as it is.

    Returns:
        A new model on the same device, in the same mode, that answers as the masked one does.

    Raises:
        UserError: kept sets that do not fit the model.
    """
    state = dict(model.state_dict())
    sites = {site.name: site for site in list_sites(model, "all")}
    checked = {name: check_kept(sites[name], channels) for name, channels in kept.items()}
    for name, channels in checked.items():
        state |= slim_tensors(sites[name], state, channels)
    return rebuilt(model, kept_cfgs(model, checked), state)


def rebuilt(model: Detector, cfgs: Cfgs, state: Mapping[str, Tensor]) -> Detector:
    """A new model of other widths and tensors, on the same device, in the same mode."""
    parameter = next(model.parameters())
    slim = type(model)(model.options, cfgs, model.info)
    slim.to(device=parameter.device, dtype=parameter.dtype)
    slim.load_state_dict(state)
    return slim.train(model.training)


def masked(model: Detector, kept: Mapping[str, Sequence[int]]) -> Detector:
    """A copy of the model in which pruned channels are switched off and nothing is smaller.

    Rows that write a pruned channel are zero: its q, k and v are 0, or the FFN's activation of 0, which is 0, or in the
    backbone what its batch norm makes of it. Unlike a kept set for `transplant`, this one may keep any number of
    channels in each head, also none; where heads leave whole, a head of which a channel is kept stays on.
    """
    result = copy.deepcopy(model)
    state = result.state_dict()
    sites = {site.name: site for site in list_sites(model, "all")}
    for name, channels in kept.items():
        site = sites[name]
        for part in site.slices:
            if not part.output:
                site.by_unit(part, state[part.name])[:, site.pruned(channels)] = 0
    return result
