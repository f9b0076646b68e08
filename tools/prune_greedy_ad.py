"""Search the width of every site, all attention first, then all FFN (schedule modular)."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("prune", schedule="modular")
