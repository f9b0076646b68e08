"""What mending keeps comes back from memory or from files, and a full disk says where it is."""

import os
from pathlib import Path

import pytest
import torch

from greedyprune.errors import UserError
from greedyprune.pruning.shelf import Shelf, Store


@pytest.mark.parametrize("room", [0, 50_000, 10**9])
def test_what_is_kept_comes_back_whatever_the_room(room):
    items = [{"tokens": torch.full((10, 1000), float(index))} for index in range(3)]
    with Store(room) as store:
        shelf = Shelf(store, items)
        folder = Path(store._folder.name)
        assert all(torch.equal(kept["tokens"], item["tokens"]) for kept, item in zip(shelf, items, strict=True))
    assert not folder.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("entries", [10, 1_000_000])
def test_a_full_disk_for_what_does_not_fit_is_named_with_what_to_do(entries):
    with Store(0) as store:
        folder = Path(store._folder.name)
        (folder / "0").symlink_to("/dev/full")
        with pytest.raises(UserError) as refusal:
            store.put({"tokens": torch.zeros(entries)})
    assert str(refusal.value) == (
        f"{folder} cannot take what does not fit into memory: No space left on device; free some space there, "
        "set TMPDIR to a folder on a larger disk, or give a larger --cache_gb"
    )
