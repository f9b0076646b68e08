"""Search the width of every site, front to back (schedule gp)."""

from greedyprune.cli import run
from greedyprune.commands.prune import main

if __name__ == "__main__":
    run(main)
