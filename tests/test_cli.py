import argparse
import errno
import subprocess
import sys

import pytest
import torch

from greedyprune import UserError
from greedyprune.cli import Parser, add_device_arguments, add_model_arguments, open_device
from greedyprune.ranges import COUNT, SHARE
from greedyprune.running import run


def exit_of(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code, capsys.readouterr()


def test_the_exit_code_is_what_main_returns():
    with pytest.raises(SystemExit) as stop:
        run(lambda: 3)
    assert stop.value.code == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("two\n  lines"), "error: two lines\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/x"),
            "error: disk full: /out/x; free some space on its disk, or write to another one\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/out/x"), "error: no permission: /out/x\n"),
        (OSError(errno.EROFS, "Read-only file system", "/out/x"), "error: read-only file system: /out/x\n"),
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ..."),
            "error: CUDA out of memory; use a smaller --batch_size, --amp bf16 or --device cpu\n",
        ),
    ],
)
def test_what_the_user_can_see_to_is_one_line_and_exit_code_2(error, line, capsys):
    code, printed = exit_of(error, capsys)
    assert (code, printed.out, printed.err) == (2, "", line)


def test_ctrl_c_is_exit_code_130_and_says_how_to_go_on(capsys):
    code, printed = exit_of(KeyboardInterrupt("the same command goes on"), capsys)
    assert code == 130
    assert printed.err == "\ninterrupted: the same command goes on\n"


def test_a_reader_that_goes_away_is_no_error():
    script = "from greedyprune.running import run; run(lambda: print('x' * 1_000_000) or 0)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=600) == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EBADF, "Bad file descriptor")])
def test_a_bug_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run(main)


@pytest.fixture
def parser():
    parser = Parser("A tool.")
    add_model_arguments(parser)
    add_device_arguments(parser)
    parser.add_argument("--count", type=COUNT.parse, default=2, help="how many")
    parser.add_argument("--share", type=SHARE.parse, default=0.5)
    return parser


@pytest.mark.parametrize("words", [["[[[8, 16]],", "[[8,", "8,", "16]]]"], ["[[[8, 16]], [[8, 8, 16]]]"]])
def test_cfgs_are_taken_quoted_or_as_several_words(parser, words):
    assert " ".join(parser.parse_args(["--cfgs", *words, "--device", "cpu"]).cfgs) == "[[[8, 16]], [[8, 8, 16]]]"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--count", "0"], "'0' is not a whole number of at least 1"),
        (["--count", "2.5"], "'2.5' is not a whole number of at least 1"),
        (["--share", "1.5"], "'1.5' is not a number of at least 0 and at most 1"),
        (["--dev", "cpu"], "unrecognized arguments: --dev cpu"),
        (["--amp", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_arguments_that_make_no_sense_are_user_errors(parser, argv, message):
    with pytest.raises(UserError, match=message):
        parser.parse_args(argv)


def test_help_says_each_default_once(parser):
    text = " ".join(parser.format_help().split())
    assert "how many (default: 2)" in text
    assert "(default: the embedded demo detector)" in text
    assert "None" not in text


def device_of(name, threads=None):
    return open_device(argparse.Namespace(device=name, threads=threads))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "--device cuda: PyTorch sees no CUDA device here; use --device cpu"),
        ("cuda:1", "--device cuda:1: PyTorch sees no CUDA device here"),
        ("gpu", "--device gpu is unknown; choose cpu, cuda, cuda:N or auto"),
        ("cuda:x", "--device cuda:x is unknown"),
        ("cpu:0", "--device cpu:0 is unknown"),
    ],
)
def test_a_device_that_is_not_there_is_named(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        device_of(name)


def test_a_gpu_beyond_the_last_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == torch.device("cuda:1")
    assert device_of("auto") == device_of("cuda") == torch.device("cuda:0")
    with pytest.raises(UserError, match="--device cuda:2: the last CUDA device here is cuda:1"):
        device_of("cuda:2")


def test_threads_are_set():
    device_of("cpu", threads=2)
    assert torch.get_num_threads() == 2
