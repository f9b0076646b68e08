"""Give a backbone a head start on the objects of a data set; see `--help`."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("pretrain_backbone")
