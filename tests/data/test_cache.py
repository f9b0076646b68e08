import multiprocessing
import os
import signal
import time

import pytest

from greedyprune import UserError
from greedyprune.data import cache_dir, demo_data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GREEDYPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(train_images):
    process = multiprocessing.get_context("fork").Process(target=demo_data, args=(train_images, 10))
    process.start()
    return process


def images(folder, split):
    return len(list((folder / f"{split}2017").iterdir()))


def test_the_cache_is_where_the_environment_says(cache, monkeypatch):
    assert cache_dir() == cache
    monkeypatch.delenv("GREEDYPRUNE_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache_dir()) == "/home/somebody/.cache/greedyprune"


def test_the_set_is_made_once(cache, capsys):
    first = demo_data(6, 4)
    assert (images(first, "train"), images(first, "val")) == (6, 4)
    assert "making the embedded data set" in capsys.readouterr().err
    assert demo_data(6, 4) == first
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_two_processes_at_once_make_one_set(cache, capfd):
    processes = [start(60), start(60)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert capfd.readouterr().err.count("making the embedded data set") == 1
    assert images(demo_data(60, 10), "train") == 60
    assert [path for path in cache.iterdir() if path.name.startswith(".")] == []


def test_what_a_killed_process_leaves_is_neither_used_nor_kept(cache):
    process = start(4000)
    while not any(cache.glob(".shapes-*/train2017/*.png")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")] == []
    time.sleep(1.5)  # its workers notice
    leftover = next(path for path in cache.iterdir() if path.name.startswith("."))
    written = images(leftover, "train")
    assert written < 4000
    time.sleep(0.5)
    assert images(leftover, "train") == written
    leftover.rename(leftover.with_name(leftover.name.replace("-4000-", "-30-")))
    assert images(demo_data(30, 10), "train") == 30
    assert [path for path in cache.iterdir() if path.name.startswith(".")] == []


def test_a_cache_that_cannot_be_written_is_a_users_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GREEDYPRUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be made in .*file: .*GREEDYPRUNE_CACHE"):
        demo_data(2, 2)
