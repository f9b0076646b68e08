"""Batches come whole from the processes that decode, and one that fails is a line, never a wait without end."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset

from greedyprune.data import make_loader
from greedyprune.data.loader import Loader
from greedyprune.data.workers import pack, unpack
from greedyprune.errors import UserError

from ..mounts import mounted
from ..processes import children, start

TARGET = {"image_id": 3, "boxes": torch.rand(4, 4), "labels": torch.tensor([], dtype=torch.int64)}


def large(*size, dtype=torch.float32):
    return torch.randn(size).to(dtype)


@pytest.mark.parametrize(
    "image",
    [
        large(3, 200, 100),
        large(3, 201, 101, dtype=torch.bfloat16),
        large(2, 3, 90, 80).contiguous(memory_format=torch.channels_last),
        large(3, 300, 300)[:, ::2, 1:],
        large(3, 300, 300)[1:],
        large(3, 200, 200).transpose(1, 2),
        torch.zeros(3, 300, 300, dtype=torch.bool),
        torch.zeros(0, 3),
        torch.tensor(7),
    ],
)
def test_a_parcel_holds_what_was_packed(image):
    batch = ([image, image.clone()], [TARGET])
    images, (target,) = unpack(pack(batch))
    for each in images:
        assert (each.dtype, each.shape) == (image.dtype, image.shape)
        assert torch.equal(each, image)
        if image.dim() == 4:
            assert each.stride() == image.stride()
    assert target["image_id"] == 3
    assert torch.equal(target["boxes"], TARGET["boxes"])
    assert target["labels"].shape == (0,)


def test_a_batch_takes_one_open_file():
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else pytest.skip("reads /proc")
    parcel = pack([large(3, 100, 100) for _ in range(50)])
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert len(unpack(parcel)) == 50


class Slow(Dataset):
    """Images that take a moment each."""

    def __init__(self, fail=None):
        self.fail = fail

    def __len__(self):
        return 400

    def __getitem__(self, index):
        time.sleep(0.02)
        if self.fail is not None:
            raise self.fail
        return torch.zeros(3, 150, 150), {"image_id": index}


def test_a_killed_worker_is_a_line_and_the_next_reading_starts_anew():
    loader = make_loader(Slow(), 4, num_workers=2)
    batches = iter(loader)
    next(batches)
    os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"a process that decodes images .* perhaps for memory; use"):
        for _ in batches:
            pass
    assert len(next(iter(loader))[0]) == 4


@pytest.mark.parametrize("error", [UserError("image 7 is broken"), MemoryError(), OSError(24, "Too many open files")])
def test_what_a_worker_raises_is_one_line(error):
    with pytest.raises(UserError) as refusal:
        list(make_loader(Slow(error), 4, num_workers=1))
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(("image 7 is broken", "out of memory", "too many open files"))


def test_a_bug_in_a_worker_stays_a_bug():
    with pytest.raises(ZeroDivisionError):
        list(make_loader(Slow(ZeroDivisionError("x")), 4, num_workers=1))


@pytest.mark.parametrize(("workers", "batch"), [(-1, 4), (10**6, 4), (2.0, 4), (0, 0), (0, 2**70)])
def test_numbers_of_a_call_have_their_ranges(workers, batch):
    with pytest.raises(UserError, match=r"num_workers is .*processors here|batch_size is"):
        make_loader(Slow(), batch, num_workers=workers)


LOADING = """
import resource, sys, torch
from greedyprune.data.loader import Loader
from greedyprune.running import run
class Images(torch.utils.data.Dataset):
    def __len__(self): return 200
    def __getitem__(self, index): return torch.zeros(3, 200, 200), {"boxes": torch.zeros(5, 4)}
def main():
    if sys.argv[2] != "0":
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
    for images, targets in Loader(Images(), lambda items: tuple(zip(*items)), int(sys.argv[1]), batch_size=50):
        print(len(images))
    return 0
run(main)
"""


@pytest.mark.slow
def test_full_shared_memory_is_a_line_and_no_wait():
    command = mounted("/dev/shm", "1m", sys.executable, "-c", LOADING, 2, 0)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: shared memory is full (/dev/shm); give it more (docker run --shm-size=8g)")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does")
def test_batches_of_many_tensors_need_few_open_files_and_too_many_workers_are_a_line():
    done, refused = (
        subprocess.run([sys.executable, "-W", "ignore", "-c", LOADING, workers, "40"], capture_output=True, text=True)
        for workers in ("2", "20")
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "50\n" * 4, "")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: --num_workers 20: the processes cannot be started: Too many open files")
    assert refused.stderr.count("\n") == 1


ENDLESS = """
import sys, time, torch
from greedyprune.data.loader import Loader
from greedyprune.running import start
import greedyprune.commands, types
class Images(torch.utils.data.Dataset):
    def __len__(self): return 10**6
    def __getitem__(self, index): return time.sleep(0.01) or torch.zeros(3, 150, 150)
command = types.ModuleType("greedyprune.commands.endless")
command.main = lambda: sum(1 for _ in Loader(Images(), list, 2, stay=True, batch_size=4))
sys.modules[command.__name__] = command
start("endless", {})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "delay"), [(signal.SIGINT, 0.3), (signal.SIGTERM, 0.0), (signal.SIGHUP, 0.01)])
def test_a_signal_to_the_whole_group_ends_workers_at_any_moment_with_one_line(number, delay):
    process = start("-c", ENDLESS)
    while len(workers := children(process)) < 2 and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay)
    os.killpg(process.pid, number)
    _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (128 + number, "\ninterrupted\n")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def test_a_loader_that_is_left_early_leaves_no_process():
    loader = Loader(Slow(), list, 1, batch_size=4)
    batches = iter(loader)
    next(batches)
    batches.close()
    assert len(next(iter(loader))) == 4
