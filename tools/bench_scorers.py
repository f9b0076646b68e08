"""Measure what every scorer leaves of the AP when all sites are cut to the same share."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("bench_scorers")
