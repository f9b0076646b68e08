"""Move the surviving weights of a search into a slim checkpoint."""

from greedyprune.cli import run
from greedyprune.commands.transplant import main

if __name__ == "__main__":
    run(main)
