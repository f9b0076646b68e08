"""Import a DAB-DETR that HuggingFace transformers saved; see `--help`."""

from greedyprune.cli import run
from greedyprune.commands.import_hf import main

if __name__ == "__main__":
    run(main)
