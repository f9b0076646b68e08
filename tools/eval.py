"""Evaluate a detector; see `--help`."""

from greedyprune.running import run_command

if __name__ == "__main__":
    run_command("eval")
