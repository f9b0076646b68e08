"""Train a detector, or fine-tune one."""

from greedyprune.cli import run
from greedyprune.commands.train import main

if __name__ == "__main__":
    run(main)
