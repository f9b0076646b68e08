"""Give a backbone a head start on the objects of a data set; see `--help`."""

from greedyprune.cli import run
from greedyprune.commands.pretrain_backbone import main

if __name__ == "__main__":
    run(main)
