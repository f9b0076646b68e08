"""What is kept of images changes how long a search takes, and nothing else."""

from pathlib import Path

import pytest
import torch

from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune import main as prune
from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import eval_transform
from greedyprune.errors import UserError
from greedyprune.models import Detector, build_model
from greedyprune.pruning.prefix import Place, Prefix
from greedyprune.search.images import Images, Room
from greedyprune.search.study import load_result

LOTS = 10**9
PLACES = [Place(False, 0), Place(False, 1, True), Place(True, 0), Place(True, 1, True), Place(True, 2)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes([str(folder), "--train_images", "4", "--val_images", "14", "--workers", "1"])
    return folder


@pytest.fixture(scope="module")
def dataset(data: Path) -> CocoDetection:
    return CocoDetection(data, "val", None, eval_transform(96, 160))


@pytest.fixture
def model() -> Detector:
    torch.manual_seed(0)
    widths = {"hidden_dim": 32, "heads": 4, "enc_layers": 2, "dec_layers": 2, "ffn_dim": 40, "num_queries": 9}
    return build_model("dn_detr", num_classes=20, backbone="small", **widths).eval()


def images(model: Detector, dataset: CocoDetection, room: Room, count: int = 14) -> Images:
    return Images(model, dataset, dataset.image_ids[:count], 3, room)


def tensors(prefix: Prefix) -> list[torch.Tensor]:
    parts = [prefix.tokens, *prefix.features[:3], prefix.content, prefix.reference, *prefix.hidden, *prefix.references]
    return [part for part in parts if part is not None]


def same(one: Images, other: Images, model: Detector) -> bool:
    pairs = list(zip(one.batches(model), other.batches(model), strict=True))
    return all(
        a.place == b.place
        and all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))
        and [t["image_id"] for t in s] == [t["image_id"] for t in t_]
        for (a, s), (b, t_) in pairs
    ) and len(pairs) == -(-len(one) // 3)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
def test_batches_are_the_same_to_the_bit_whatever_there_is_room_for(
    share: float, model: Detector, dataset: CocoDetection
) -> None:
    lots = Room(LOTS)
    whole = images(model, dataset, lots)
    whole.move(model, PLACES[-1])
    room = Room(int(share * lots.used))
    some = images(model, dataset, room)
    whole.restart()
    assert (not some.start) == (share == 0)
    for place in (*PLACES, *PLACES[:2]):
        assert whole.move(model, place) == some.move(model, place)
        assert room.used <= room.size
        assert same(whole, some, model), place
    if share == 0.9:
        assert {prefix.place for prefix in some.at} == {PLACES[1]}


def test_room_is_given_back_and_memory_that_prefixes_share_counts_once(model: Detector, dataset: CocoDetection) -> None:
    room = Room(LOTS)
    kept = images(model, dataset, room)
    begun = room.used
    tokens = sum(prefix.tokens.numel() * 4 for prefix, _ in kept.start)
    masks = sum(0 if prefix.mask is None else prefix.mask.numel() for prefix, _ in kept.start)
    assert begun == 2 * tokens + masks  # tokens and their positions
    kept.move(model, Place(False, 1))
    assert room.used == begun + tokens
    kept.restart()
    assert room.used == begun
    kept.reload(model)
    assert room.used == begun
    while kept.start:
        kept.drop()
    assert room.used == 0


def test_images_that_are_needed_more_often_are_kept_first(model: Detector, dataset: CocoDetection) -> None:
    room = Room(LOTS)
    images(model, dataset, room, 6)
    room = Room(2 * room.used)
    often, seldom = images(model, dataset, room, 6), images(model, dataset, room, 6)
    assert len(seldom.start) == 2
    often.move(model, Place(True, 1))
    seldom.move(model, Place(True, 1))
    assert {prefix.place for prefix in often.at} == {Place(True, 1)}
    assert len(seldom.start) < 2
    assert room.used <= room.size
    assert same(often, seldom, model)


def test_a_changed_model_is_seen_after_restart_and_a_changed_backbone_after_reload(
    model: Detector, dataset: CocoDetection
) -> None:
    room = Room(LOTS)
    for name, refresh in (("transformer.encoder", Images.restart), ("backbone", lambda kept: kept.reload(model))):
        kept = images(model, dataset, room)
        kept.move(model, Place(True, 0))
        with torch.no_grad():
            for parameter in model.get_submodule(name).parameters():
                parameter.mul_(1.1)
        refresh(kept)
        kept.move(model, Place(True, 0))
        anew = images(model, dataset, room)
        anew.move(model, Place(True, 0))
        assert same(kept, anew, model)


def test_kept_features_can_be_gone_back_through(model: Detector, dataset: CocoDetection) -> None:
    for room in (Room(LOTS), Room(0)):
        assert not any(prefix.tokens.is_inference() for prefix, _ in images(model, dataset, room).batches(model))


def test_a_search_with_a_small_cache_ends_as_one_with_a_large_one(data: Path, tmp_path: Path) -> None:
    sizes = {"subset_images": 6, "score_images": 2, "attn_step": 8, "ffn_step": 256, "batch_size": 3, "threads": 1}
    scored = {"attn.num_evaluate": 72, "map_tol": 0.5}
    flags = [word for name, value in {**sizes, **scored}.items() for word in (f"--{name}", str(value))]
    flags += ["--coco_path", str(data), "--device", "cpu", "--schedule", "modular"]  # which goes back, too
    ends = []
    for size in ("8", "0.002", "0"):
        output = tmp_path / size
        assert prune([*flags, "--output_dir", str(output), "--cache_gb", size]) == 0
        records = load_result(str(output / "prune.db"))[1]
        told = [(r.origin, r.widths, r.subset_map, r.full_map, r.image_forwards) for r in records]
        ends.append((told, (output / "cfgs.json").read_text()))
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("size", ["-1", "lots", "nan", "inf"])
def test_a_cache_size_that_is_none_is_one_clear_line(size: str) -> None:
    with pytest.raises(UserError, match=f"--cache_gb: '{size}' is not a number of at least 0"):
        prune(["--cache_gb", size])
