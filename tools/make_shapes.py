"""Write the synthetic detection set; see `--help`."""

from greedyprune.cli import run
from greedyprune.commands.make_shapes import main

if __name__ == "__main__":  # the processes that draw may import this file
    run(main)
