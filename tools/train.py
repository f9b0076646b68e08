"""Train a detector, or fine-tune one."""

from greedyprune.running import run_command

if __name__ == "__main__":
    run_command("train")
