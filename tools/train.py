"""Train a detector, or fine-tune one."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("train")
