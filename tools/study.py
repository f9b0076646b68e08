"""Compare methods of pruning on one detector."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("study")
