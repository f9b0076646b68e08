"""Every check that needs a GPU, in one run: prints a table, exit code 1 if a check fails.

Run it on the machine with the GPU, in the repository: python tools/gpu_check.py [--device cuda:0]
"""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("gpu_check")
