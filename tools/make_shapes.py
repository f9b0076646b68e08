"""Write the synthetic detection set; see `--help`."""

from greedyprune.entry import run_command

if __name__ == "__main__":  # the processes that draw may import this file
    run_command("make_shapes")
