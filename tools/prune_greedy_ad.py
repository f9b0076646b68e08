"""Search the width of every site, all attention first, then all FFN (schedule modular)."""

from functools import partial

from greedyprune.cli import run
from greedyprune.commands.prune import main

if __name__ == "__main__":
    run(partial(main, schedule="modular"))
