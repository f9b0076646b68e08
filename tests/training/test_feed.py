import pytest
import torch

from greedyprune import UserError
from greedyprune.data.coco import CocoDetection
from greedyprune.data.seeded import epoch_order
from greedyprune.data.transforms import train_transform
from greedyprune.training import Feed, RunOptions, TrainOptions, World
from greedyprune.training.recipes.detr import DetrRecipe

from .tiny_training import write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def make_feed(data, options=None, run=None, rank=0, size=1):
    dataset = CocoDetection(data, "train", None, train_transform("flips", 48, 64))
    chosen = TrainOptions(**{"batch_size": 4, **(options or {})})
    world = World(rank, size, torch.device("cpu"))
    return Feed(dataset, chosen, RunOptions(**(run or {})), world, DetrRecipe.gather)


def taken(feed, epoch, start=0):
    return [
        [
            (target["image_id"], image)
            for images, targets in parts
            for target, image in zip(targets, images.tensors, strict=True)
        ]
        for parts in feed.steps(epoch, start)
    ]


def ids(steps):
    return [[number for number, _ in step] for step in steps]


def same(one, other):
    return ids(one) == ids(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for (_, a), (_, b) in zip(x, y, strict=True)
    )


def test_an_epoch_is_a_permutation_that_is_another_one_the_next_time():
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(50, 1, 1) == orders[3]


def test_every_image_comes_once_in_an_epoch_but_those_of_an_incomplete_batch(data):
    feed = make_feed(data)
    steps = ids(taken(feed, 0))
    assert feed.steps_per_epoch == len(steps) == 2
    assert len({image for step in steps for image in step}) == 8


def test_starting_in_the_middle_of_an_epoch_gives_the_same_pixels(data):
    torch.manual_seed(1)
    whole = taken(make_feed(data), 3)
    torch.manual_seed(2)
    assert same(taken(make_feed(data), 3, start=1), whole[1:])


@pytest.mark.parametrize("run", [{"num_workers": 2}, {"cache_images": True}, {"cache_images": True, "num_workers": 1}])
def test_workers_and_memory_change_no_pixel(data, run):
    assert same(taken(make_feed(data, run=run), 1), taken(make_feed(data), 1))


def test_augmentation_is_another_one_in_another_epoch(data):
    feed = make_feed(data)
    first, second = ({number: image for step in taken(feed, epoch) for number, image in step} for epoch in (0, 1))
    assert any(not torch.equal(first[number], second[number]) for number in first.keys() & second.keys())


def test_processes_and_parts_share_a_step_among_them(data):
    whole = ids(taken(make_feed(data), 0))
    shares = [ids(taken(make_feed(data, run={"accumulate": 2}, rank=rank, size=2), 0)) for rank in (0, 1)]
    for step, images in enumerate(whole):
        assert sorted(shares[0][step] + shares[1][step]) == sorted(images)


def test_train_images_are_the_first_ones(data):
    feed = make_feed(data, {"train_images": 4})
    assert feed.steps_per_epoch == 1
    assert sorted(ids(taken(feed, 0))[0]) == [10, 20, 30, 40]


def test_a_batch_that_cannot_be_cut_or_filled_is_refused(data):
    with pytest.raises(UserError, match="--batch_size 4 is not a multiple of --accumulate 3 x 1 processes"):
        make_feed(data, run={"accumulate": 3})
    with pytest.raises(UserError, match="9 training images, fewer than --batch_size 16"):
        make_feed(data, {"batch_size": 16})
