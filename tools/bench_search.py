"""How fast a search scores and evaluates, on random weights and generated images; see `--help`."""

from greedyprune.cli import run
from greedyprune.commands.bench_search import main

if __name__ == "__main__":
    run(main)
