"""Import a DAB-DETR that HuggingFace transformers saved; see `--help`."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("import_hf")
