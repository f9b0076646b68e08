"""Write a checkpoint anew: one of many zeros as a small file."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("save")
