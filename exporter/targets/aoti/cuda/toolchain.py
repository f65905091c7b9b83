"""What compiling for a GPU takes: a card, torch for CUDA, Triton, g++, and the toolkit's headers.

AOTInductor measures kernels while it compiles, and does not compile for a card that is not there.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import torch

from exporter.errors import MachineError
from exporter.system import accelerators
from exporter.targets.aoti.compiler import compiler_version, require_compiler

# The last is in a wheel of its own, and the second includes it.
_HEADERS = ("cuda.h", "cuda_runtime_api.h", "crt/host_defines.h")
_LEAST_CAPABILITY = (7, 5)  # the least that CUDA 13 compiles for
_USUAL = Path("/usr/local/cuda")


@dataclass(frozen=True)
class Toolchain:
    """The card to compile for, and the versions that decide what is compiled.

    Attributes:
        card: The card; the first that this process may use.
        cuda: The version of CUDA that torch was built for, like "13.0".
        triton: Triton's version.
        compiler: The C++ compiler's version.
        home: The folder with the toolkit's `include`.
    """

    card: accelerators.Card
    cuda: str
    triton: str
    compiler: str
    home: Path

    def as_parts(self) -> dict[str, str | int | list[int]]:
        """Return what identifies compiled code in the cache.

        Kernels are chosen by measurement, so that the card's size counts too.
        """
        return {
            "capability": list(self.card.capability),
            "multiprocessors": self.card.multiprocessors,
            "cuda": self.cuda,
            "torch": torch.__version__,
            "triton": self.triton,
            "ptxas": _ptxas(self.card),
            "compiler": self.compiler,
        }


def require_toolchain() -> Toolchain:
    """Return what compiling takes.

    Raises:
        MachineError: Something is missing; the message says what to install.
    """
    card = _card()
    cuda = torch.version.cuda
    if cuda is None:
        _refuse(
            f"torch built for CUDA, and this is torch {torch.__version__}",
            "Install it: pip install --force-reinstall 'torch>=2.13,<2.14' "
            "--index-url https://download.pytorch.org/whl/cu130",
        )
    if importlib.util.find_spec("triton") is None:
        _refuse("Triton", "Install the release that torch names: pip install triton")
    require_compiler()
    return Toolchain(card, cuda, _version("triton"), compiler_version(), _home())


def _card() -> accelerators.Card:
    card = accelerators.require_gpu(None, "building aoti with `device: cuda`")
    if card.capability < _LEAST_CAPABILITY:
        least = ".".join(map(str, _LEAST_CAPABILITY))
        _refuse(
            f"a card of compute capability {least} or later, and here is {card}",
            "Choose another card by CUDA_VISIBLE_DEVICES.",
        )
    return card


def _home() -> Path:
    """Return the toolkit's folder, where torch looks for it, or that of NVIDIA's wheels."""
    places = [*_places()]
    for place in places:
        if all((place / "include" / header).is_file() for header in _HEADERS):
            return place
    looked = ", ".join(str(place / "include") for place in places[:2])
    return _refuse(
        f"the CUDA toolkit's headers ({', '.join(_HEADERS)}), which are not in {looked}",
        "Set CUDA_HOME to the toolkit, or install its wheels: "
        "pip install nvidia-cuda-runtime nvidia-cuda-crt",
    )


def _places() -> Iterator[Path]:
    """Yield folders in torch's order; a folder that is named is the only one."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            yield Path(os.environ[name])
            return
    compiler = shutil.which("nvcc")
    yield Path(compiler).parents[1] if compiler else _USUAL
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(folder).glob("cu1?"), reverse=True)
        yield Path(folder) / "cuda_runtime"


def _ptxas(card: accelerators.Card) -> str:
    """Return the version of the assembler that Triton calls for a card."""
    from triton import knobs

    tool = knobs.nvidia.ptxas_blackwell if card.capability >= (10, 0) else knobs.nvidia.ptxas
    return str(tool.version)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _refuse(lacking: str, remedy: str) -> NoReturn:
    msg = f"aoti with `device: cuda` is built with {lacking}.\n{remedy}"
    raise MachineError(msg)
