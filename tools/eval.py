"""Evaluate a detector; see `--help`."""

from greedyprune.cli import run
from greedyprune.commands.eval import main

if __name__ == "__main__":
    run(main)
