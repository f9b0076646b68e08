"""Move the surviving weights of a search into a slim checkpoint."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("transplant")
