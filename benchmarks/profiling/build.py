"""Compile an aoti artifact's packages so that each kernel in them is timed, by `marks.cpp`.

What they compute is the same. The folder is no sealed artifact, and good for `run` alone.

    python -m benchmarks.profiling.build CHECKPOINT FOLDER
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES, family_name
from exporter.quantization.plan import plan_of, shared_tables
from exporter.quantization.resolve import default_quantization
from exporter.system.progress import silent
from exporter.targets import TARGETS
from exporter.targets.aoti import compiler, devices, kernels
from exporter.targets.base import Job

# AOTInductor then wraps each call, of our own kernels too, in a mark for a profiler.
MARKS = {"cpp.enable_kernel_profile": True}


def build(source: Path, folder: Path) -> None:
    """Build with the target's default options, past the cache that real builds share."""
    checkpoint = open_checkpoint(str(source))
    target, family = TARGETS["aoti"], FAMILIES[family_name(checkpoint.config)]
    model = family.skeleton(checkpoint.config)
    shared = shared_tables(family.TIED, checkpoint.tensors)
    folder.mkdir(parents=True)
    with TemporaryDirectory() as cache, torch._inductor.config.patch(MARKS), profiler(Path(cache)):
        os.environ["EXPORTER_CACHE"] = cache
        target.build(
            Job(
                checkpoint=checkpoint,
                family=family,
                options=target.Options(),
                plan=plan_of(default_quantization(model, family.HEAD, shared), model),
                folder=folder,
                progress=silent,
                fresh=True,
            )
        )
    checkpoint.copy_companions(folder)


@contextmanager
def profiler(folder: Path) -> Iterator[None]:
    """Link our profiler into packages, which have none without libtorch."""
    flags = devices.CPU.kernel_flags("x86-64-v3", (), None)
    linked = folder / "marks.o"
    command = os.environ.get("CXX", "g++")
    kernels.compile_source(Path(__file__).with_name("marks.cpp"), linked, command, flags)
    with patch.object(compiler, "LIBRARY_FLAGS", f"{devices.LIBRARY_FLAGS} {linked}"):
        yield


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
