"""Says which implementation of deformable attention runs, and why: python -m greedyprune.ops"""

from greedyprune.ops.built import find


def main() -> int:
    for device in ("cpu", "cuda"):
        module, reason = find(device)
        print(f"{device:5s} {'pure PyTorch' if module is None else 'compiled kernels'}: {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
