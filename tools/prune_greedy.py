"""Search the width of every site, each weighed against every other (schedule global)."""

from greedyprune.cli import run
from greedyprune.commands.prune import main

if __name__ == "__main__":
    run(main)
