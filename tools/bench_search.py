"""How fast a search scores and evaluates, on random weights and generated images; see `--help`."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("bench_search")
