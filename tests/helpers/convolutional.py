"""Small convolutional detectors in which channels meet in every way, and their family."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.answer import Answer, Softmax
from greedyprune.families.channels import convolution_sites, register
from greedyprune.sites import FlatLayout

from .engine import Subject
from .grid_family import GridFamily


def block(given: int, made: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, its norm and a leaky ReLU."""
    convolution = nn.Conv2d(given, made, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(made), nn.LeakyReLU(0.1))


class Plain(nn.Module):
    """Channel c of a map becomes the channels c, C + c, 2 C + c, 3 C + c of one of half the size."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


class Fours(nn.Module):
    """The order that Darknet has: memory is read as a map of a quarter of the channels, twice as wide and high."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, c // 4, h, 2, w, 2).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(b, 4 * c, h // 2, w // 2)


@register(Fours)
def fours(tracer, name, module, x, y):
    numbers = tracer.channels(x)
    if numbers is not None:
        mates = numbers.view(-1, 4)
        tracer.tie(mates[:, :1].expand_as(mates), mates)
        tracer.spread(y, mates.amax(1).repeat_interleave(4).repeat(4))


class Net(nn.Module):
    """A body that gives maps of 1/8 of the size, and a head of one box a cell."""

    def __init__(self, width: int, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, classes + 5, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(self.body(images)).flatten(2).mT
        return found[..., :-4], found[..., -4:].sigmoid()

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Passthrough(Net):
    """A chain with pools, and a finer map beside it, reorganised."""

    def __init__(self, order: type[nn.Module] = Plain) -> None:
        super().__init__(20)
        self.first, self.second, self.third = block(3, 12), block(12, 16), block(16, 24)
        self.aside, self.order, self.last = block(16, 8, 1), order(), block(32 + 24, 20)

    def body(self, x: Tensor) -> Tensor:
        x = self.second(F.max_pool2d(self.first(x), 2))
        fine = F.max_pool2d(x, 2)
        x = self.third(F.max_pool2d(fine, 2))
        return self.last(torch.cat((self.order(self.aside(fine)), x), 1))


class Shortcuts(Net):
    """Blocks that are added to what they read; one of them has nothing between its reading and its sum."""

    def __init__(self) -> None:
        super().__init__(16)
        self.stem, self.down = block(3, 16, stride=4), block(16, 16, stride=2)
        self.inner, self.outer = block(16, 10, 1), block(10, 16)
        self.same = block(16, 16)

    def body(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        x = x + self.outer(self.inner(x))
        x += self.same(x)
        return x


class Grouped(Net):
    """Depthwise convolutions, with two outputs a channel, too, and one in groups; a concatenation before one."""

    def __init__(self) -> None:
        super().__init__(12)
        self.stem, self.depth = block(3, 12, stride=4), block(12, 12, groups=12)
        self.twice = nn.Conv2d(12, 24, 3, 2, 1, groups=12)
        self.other, self.both = block(12, 8, stride=2), block(32, 32, groups=32)
        self.groups, self.last = block(32, 24, groups=2), block(24, 12, groups=4)

    def body(self, x: Tensor) -> Tensor:
        x = self.depth(self.stem(x))
        x = self.both(torch.cat((self.twice(x).relu(), self.other(x)), 1))
        return self.last(self.groups(x))


class Stages(Net):
    """A split whose halves go different ways and meet again, as in cross stage partial networks."""

    def __init__(self) -> None:
        super().__init__(16)
        self.stem, self.cv1 = block(3, 16, stride=8), block(16, 16, 1)
        self.m1, self.m2, self.cv2 = block(8, 6), block(6, 8), block(24, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        one, other = self.cv1(self.stem(x)).chunk(2, 1)
        return self.cv2(torch.cat((one, other, other + self.m2(self.m1(other))), 1))


class Dense(Net):
    """Norms before convolutions, over what is concatenated; a gate, a scale for each channel and maps of two sizes."""

    def __init__(self) -> None:
        super().__init__(18)
        self.stem, self.norm1 = nn.Conv2d(3, 12, 8, 4, 2), nn.BatchNorm2d(12)
        self.grow, self.norm2 = nn.Conv2d(12, 6, 3, 1, 1), nn.BatchNorm2d(18)
        self.squeeze, self.excite = nn.Conv2d(18, 5, 1), nn.Conv2d(5, 18, 1)
        self.scale = nn.Parameter(torch.rand(18, 1, 1) + 0.5)
        self.down = block(18, 18, stride=2)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm2(torch.cat((self.grow(self.norm1(x).relu()), x), 1))
        gate = self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = F.hardswish(x * gate) * self.scale
        low = F.interpolate(F.adaptive_avg_pool2d(x, 4), size=x.shape[-2:])
        return self.down(x + low)


NETS = {
    "reorganised": Passthrough,
    "reorganised in fours": lambda: Passthrough(Fours),
    "shortcuts": Shortcuts,
    "grouped": Grouped,
    "stages": Stages,
    "dense": Dense,
}


class NetFamily(GridFamily):
    name = "nets"

    def owns(self, model: nn.Module) -> bool:
        return isinstance(model, Net)

    def found(self, model: nn.Module):
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return convolution_sites(model, lambda: model(image), part="convolutions", step=4)

    def sites(self, model: nn.Module):
        return self.found(model).sites

    def layout(self, model: nn.Module):
        return FlatLayout(self.sites(model))

    def answer(self, model, inputs, last_only=False):
        return Answer(*model(inputs), Softmax())


def convolutional(kind: str) -> Subject:
    """Always the same weights, in which every norm has a say."""
    torch.manual_seed(3)
    model = NETS[kind]().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    draw = torch.Generator().manual_seed(0)
    return Subject(NetFamily(), model, [torch.randn(3, 32, 32, generator=draw) for _ in range(2)])
