"""Builds greedyprune_ops: plain C libraries, compiled by the machine's own C++ compiler and, where there is one, nvcc.

Neither links to PyTorch, so it need not be there while this runs. Environment: CXX, the C++ compiler; CUDA_HOME, the
CUDA toolkit; GREEDYPRUNE_OPS_CUDA=0, no CUDA; GREEDYPRUNE_OPS_ARCHS, compute capabilities ("8.0 9.0").
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
CPU_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden"]


class Missing(Exception):
    """A library that cannot be built here; its message is one line that says why."""


class Libraries(build_ext):
    """Compiles each library with one command. Without the CPU's there is nothing to install; CUDA's may be missing."""

    def run(self) -> None:
        notes = {}
        for extension in self.extensions:
            name = extension.name.rpartition("_")[2]
            target = Path(self.get_ext_fullpath(extension.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                notes[name] = BUILD[name](target)
            except Missing as error:
                notes[name] = {"missing": str(error)}
                print(f"greedyprune_ops: no {name} kernels: {error}", file=sys.stderr)
                if name == "cpu":
                    raise SystemExit(
                        f"greedyprune_ops: {error}; install a C++ compiler and try again, or go without: "
                        "greedyprune runs in pure PyTorch"
                    ) from None
        (target.parent / "build.json").write_text(json.dumps(notes, indent=1) + "\n")

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_outputs(self) -> list[str]:
        libraries = [Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions]
        return [str(path) for path in (*libraries, libraries[0].parent / "build.json") if path.exists()]


def build_cpu(target: Path) -> dict[str, str]:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next((name for name in names if shutil.which(name.split()[0])), None)
    if compiler is None:
        raise Missing(f"no C++ compiler was found ({', '.join(names)})")
    command = [*compiler.split(), *CPU_FLAGS, *sources("cpu", ".cpp"), "-o", str(target)]
    try:
        compile_with([*command, "-fopenmp"])
        threads = "OpenMP"
    except Missing:
        compile_with([*command, "-Wno-unknown-pragmas"])
        threads = f"one thread: {compiler} has no OpenMP"
    return {"compiler": compiler, "threads": threads}


def build_cuda(target: Path) -> dict[str, str]:
    if os.environ.get("GREEDYPRUNE_OPS_CUDA") == "0":
        raise Missing("switched off while building by GREEDYPRUNE_OPS_CUDA=0")
    if pytorch_without_cuda():
        raise Missing("PyTorch here is a build without CUDA")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [str(Path(home) / "bin") for home in homes if home]
    nvcc = next(filter(None, (shutil.which("nvcc", path=place) for place in places)), None) or shutil.which("nvcc")
    if nvcc is None:
        raise Missing("nvcc was not found: set CUDA_HOME to a CUDA toolkit and build again")
    archs = os.environ.get("GREEDYPRUNE_OPS_ARCHS", "8.0 9.0").replace(",", " ").split()
    numbers = [arch.replace(".", "") for arch in archs]
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    # Cards that come later compile the newest one's intermediate code for themselves.
    targets.append(f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}")
    compile_with([nvcc, *CUDA_FLAGS, *targets, *sources("cuda", ".cu"), "-o", str(target)])
    return {"compiler": nvcc, "architectures": " ".join(archs)}


def pytorch_without_cuda() -> bool:
    """Whether a PyTorch is here and has no CUDA; pip's own build environment has no PyTorch to ask."""
    try:
        from torch.version import cuda
    except ImportError:
        return False
    return cuda is None


def compile_with(command: list[str]) -> None:
    print(" ".join(command))
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        raise Missing(f"{command[0]} does not run ({error})") from None
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        lines = [line for line in error.stderr.splitlines() if "error" in line.lower()] or error.stderr.splitlines()
        raise Missing(f"{command[0]} failed: {' '.join(lines[0].split()) if lines else error}") from None


def sources(folder: str, suffix: str) -> list[str]:
    return sorted(str(path) for path in (HERE / "csrc" / folder).glob(f"*{suffix}"))


BUILD = {"cpu": build_cpu, "cuda": build_cuda}

setup(
    name="greedyprune_ops",
    version="0.1.0",
    description="Compiled kernels of multi-scale deformable attention for GreedyPrune",
    license="Apache-2.0",
    python_requires=">=3.10",
    install_requires=["torch>=2.4"],
    package_dir={"": "src"},
    packages=find_packages("src"),
    ext_modules=[Extension(f"greedyprune_ops.libgreedyprune_{name}", []) for name in BUILD],
    cmdclass={"build_ext": Libraries},
)
