"""Checks every built implementation against the float64 twin, as users of deformable DETR know it: python ops/test.py

Prints each check and True or False. Exit code: 0 all hold, 1 some do not, 2 nothing is built.
"""

import sys

import torch

from greedyprune.ops.built import find
from greedyprune.ops.check import CASES, DTYPES, compare, implementations


def main() -> int:
    torch.manual_seed(0)
    for device in ("cpu", "cuda"):
        module, reason = find(device)
        print(f"{device}: {'not checked, ' if module is None else ''}{reason}")
    found, failed, checks = implementations(), 0, 0
    for implementation in found:
        for case in CASES:
            if implementation.device == "cuda" and len(case.shapes) > 64:
                continue
            for dtype in DTYPES:
                for half in (False, True) if dtype.itemsize == 2 else (False,):
                    for name, error, limit in compare(implementation, case, dtype, half):
                        holds = error <= limit
                        checks, failed = checks + 1, failed + (not holds)
                        kind = str(dtype).removeprefix("torch.") + (" throughout" if half else "")
                        print(f"{implementation.name}, {kind}, {case}, {name}: {error:.1e} <= {limit:.0e} {holds}")
    print(f"{checks - failed} of {checks} checks hold")
    if not found:
        print("nothing is built: pip install ./ops", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
