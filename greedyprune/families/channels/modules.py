"""What is known of modules whose weights channels lie in: a rule for each type, and one registration for more."""

from collections.abc import Callable

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from greedyprune.families.channels.tracer import Rule, Tracer

RULES: dict[type[nn.Module], Rule] = {}


def register(*types: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Make a rule known for types of modules.

    It is a function of the tracer, the module's name, the module, what it is given and what it gives. Nothing is
    followed inside such a module.
    """

    def known(rule: Rule) -> Rule:
        for each in types:
            RULES[each] = rule
        return rule

    return known


def rules_of(model: nn.Module) -> dict[str, Rule]:
    """The rule of every module that there is one for, by its name; a class with a forward of its own has none."""
    found: dict[str, Rule] = {}
    for name, module in model.named_modules():
        for base in type(module).__mro__:
            if base in RULES and type(module).forward is base.forward:
                found[name] = RULES[base]
                break
    return found


@register(nn.Conv2d)
def convolution(tracer: Tracer, name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
    """Reads channels and makes others; a depthwise one keeps them, and one in groups ties what its groups read."""
    assert isinstance(module, nn.Conv2d)
    numbers, groups = tracer.read(x, name, x.dim() - 3), module.groups
    out, width = module.weight.shape[:2]
    tensors = [f"{name}.weight", *([f"{name}.bias"] if module.bias is not None else [])]
    if width == 1 and groups > 1:
        if numbers is not None:
            kept = numbers.repeat_interleave(out // groups)
            for tensor in tensors:
                tracer.lies(tensor, 0, "hidden", kept, name)
            tracer.grouped[name] = out // groups
            tracer.spread(y, kept, y.dim() - 3)
        return
    if numbers is not None:
        by_group = numbers.view(groups, width)
        best = by_group.amax(0)
        tracer.tie(best.expand_as(by_group), by_group)
        tracer.lies(f"{name}.weight", 1, "output", best, name)
    own = tracer.fresh(name, out)
    mates = own.view(groups, -1)
    tracer.tie(mates[:1].expand_as(mates), mates)
    for tensor in tensors:
        tracer.lies(tensor, 0, "hidden", own, name, writes=True)
    tracer.spread(y, own, y.dim() - 3)
    tracer.gives(y, name)


@register(nn.BatchNorm2d, FrozenBatchNorm2d)
def batch_norm(tracer: Tracer, name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
    """Keeps every channel; one that is switched off is 0 after it."""
    tracer.normed(x, name)
    numbers = tracer.read(x, name)
    if numbers is None:
        return
    for attribute, role in (("weight", "hidden"), ("bias", "hidden"), ("running_mean", ""), ("running_var", "")):
        if getattr(module, attribute, None) is not None:
            tracer.lies(f"{name}.{attribute}", 0, role or "statistic", numbers, name)
    tracer.spread(y, numbers)


@register(nn.Linear)
def linear(tracer: Tracer, name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
    """Reads channels of tokens; a map that is flattened into it stays as it is."""
    numbers = tracer.read(x, name, x.dim() - 1)
    if numbers is None:
        return
    followed = numbers[numbers > 0]
    if len(followed.unique()) < len(followed):
        tracer.pin(numbers, f"is flattened into {name}")
    else:
        tracer.lies(f"{name}.weight", 1, "output", numbers, name)


@register(nn.Identity, nn.Dropout)
def same(tracer: Tracer, name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
    """Gives what it is given."""
    labels = tracer.labels(x)
    if labels is not None and y is not x:
        tracer.mark(y, labels.numbers, labels.zero)
