"""Evaluate a detector; see `--help`."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("eval")
