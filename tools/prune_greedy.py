"""Search the width of every site, each weighed against every other (schedule global)."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("prune")
