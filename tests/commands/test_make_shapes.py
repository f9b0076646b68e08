import signal
import time

import pytest

from greedyprune import UserError
from greedyprune.commands.make_shapes import main

from ..processes import TOOLS, start


def test_it_writes_coco_layout_and_says_what_is_in_it(tmp_path, capsys):
    assert main([str(tmp_path / "new" / "set"), "--train_images", "30", "--val_images", "6", "--workers", "1"]) == 0
    written = sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").glob("*/*"))
    assert written == ["set/annotations", "set/train2017", "set/val2017"]
    printed = capsys.readouterr()
    assert printed.out.startswith("train: 30 images (")
    assert "\nval: 6 images (" in printed.out
    assert "% small" in printed.out
    assert "circle " in printed.out
    # No terminal: a few lines in place of a bar.
    assert printed.err.splitlines()[-1] == "drawing shapes: 36 of 36 images"
    assert "\r" not in printed.err


def test_a_folder_that_is_there_and_empty_is_used(tmp_path):
    main([str(tmp_path), "--train_images", "1", "--val_images", "1"])
    assert (tmp_path / "annotations" / "instances_val2017.json").is_file()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_is_written_over(tmp_path, kind):
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
        (target / "precious.txt").write_text("mine")
    else:
        target.write_text("mine")
    with pytest.raises(UserError, match="target is"):
        main([str(target)])
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]


@pytest.mark.parametrize("words", [["--train_images", "0"], ["--val_images", "many"], ["--seed", "-1"], []])
def test_bad_arguments_are_users_errors(tmp_path, words):
    with pytest.raises(UserError, match="see "):
        main([str(tmp_path / "set"), *words] if words else [])


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path):
    process = start(TOOLS / "make_shapes.py", tmp_path / "set", "--train_images", "100000", "--workers", "2")
    while not any(tmp_path.glob(".set.*/train2017/*.png")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, printed) == (130, "\ninterrupted\n")
    assert list(tmp_path.iterdir()) == []
