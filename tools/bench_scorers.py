"""Measure what every scorer leaves of the AP when all sites are cut to the same share."""

from greedyprune.cli import run
from greedyprune.commands.bench_scorers import main

if __name__ == "__main__":
    run(main)
