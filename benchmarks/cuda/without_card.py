"""Compile for an NVIDIA card on a machine that has none, to see what the compiler makes of a graph.

AOTInductor runs kernels while it compiles, so an artifact is built where its card is. Here a
stand-in for the driver takes the card's place, and kernels are compiled but never run, each in the
first of its forms. So what comes out is not an artifact: it tells which kernels a graph has, what
they take of a processor, and that all of it compiles. It needs PyTorch for CUDA, g++, and the
toolkit's headers:

    pip install "torch==2.11.0" "nvidia-cuda-crt<13.1"
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

# The driver's functions that Triton's own library calls while it compiles. Attributes are those of
# https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
_DRIVER = """
#include <cstddef>
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuGetErrorString(int, const char **text) { return *text = "a stand-in", 0; }
int cuDeviceGet(int *device, int) { return *device = 0, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
    case 10: *value = 32; break;                // threads of a warp
    case 16: *value = MULTIPROCESSORS; break;
    case 75: *value = MAJOR; break;
    case 76: *value = MINOR; break;
    case 81: case 97: *value = SHARED; break;   // bytes of a multiprocessor, of a block
    default: *value = 65536;
  }
  return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, 0; }
int cuCtxGetCurrent(void **context) { return *context = (void *)1, 0; }
int cuCtxSetCurrent(void *) { return 0; }
int cuCtxGetLimit(size_t *value, int) { return *value = 0, 0; }
int cuCtxSetLimit(int, size_t) { return 0; }
int cuModuleLoadData(void **module, const void *) { return *module = (void *)1, 0; }
int cuModuleGetFunction(void **function, void *, const char *) { return *function = (void *)1, 0; }
int cuFuncGetAttribute(int *value, int attribute, void *) {
  return *value = attribute == 0 ? 1024 : 0, 0;  // threads of a block
}
int cuFuncSetAttribute(void *, int, int) { return 0; }
int cuFuncSetCacheConfig(void *, int) { return 0; }
int cuPointerGetAttribute(void *value, int, unsigned long long) { return *(void **)value = 0, 0; }
int cuLaunchKernelEx(...) { return 0; }
int cuOccupancyMaxActiveClusters(int *count, ...) { return *count = 1, 0; }
}
"""
_CALL = re.compile(r"\b(?:aoti_torch_cuda_|call_)(\w+)\(")
_DEFINITION = re.compile(r"^static inline void call_")


@dataclass(frozen=True)
class Card:
    """What the compiler asks of a card."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int
    memory_bytes: int


CARDS = {
    "A100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 108, 166912, 80 << 30),
    "L4": Card("NVIDIA L4", (8, 9), 58, 101376, 24 << 30),
    "H100": Card("NVIDIA H100 80GB HBM3", (9, 0), 132, 232448, 80 << 30),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel of Triton, as it was compiled.

    Attributes:
        name: Its name in the generated code.
        shared_bytes: Shared memory of a block.
        warps: Warps of a block.
        ptx: Its PTX, for the card's capability.
    """

    name: str
    shared_bytes: int
    warps: int
    ptx: str


@contextmanager
def stand_in(card: Card, folder: Path) -> Iterator[dict[str, Kernel]]:
    """Let PyTorch and Triton take this machine for one with the card.

    Args:
        card: The card.
        folder: An empty folder for the driver.

    Yields:
        The kernels that are compiled from now on, by name.
    """
    import torch._dynamo.device_interface as interfaces
    import torch._inductor.codegen.wrapper as wrapper
    from torch._inductor import config
    from torch._inductor.fx_passes import joint_graph
    from torch._inductor.runtime import triton_heuristics

    kernels: dict[str, Kernel] = {}
    properties = _properties(card)
    first = _Functions(card, properties)
    lazy_init = joint_graph.lazy_init
    with ExitStack() as patches:
        patches.enter_context(_driver(card, folder))
        for owner, names in {
            torch.cuda: first.of_torch,
            torch._C: first.of_c,
            interfaces.CudaInterface: first.of_interface,
            interfaces.CudaInterface.Worker: {"get_device_properties": first.properties},
            torch._subclasses.fake_tensor: {"init_gpu_context": _nothing},
            # Its patterns are traced on real tensors.
            joint_graph: {"lazy_init": lambda _device=None: lazy_init(torch.device("cpu"))},
            triton_heuristics.CachingAutotuner: {"run": _compiling(kernels)},
        }.items():
            for name, function in names.items():
                patches.enter_context(mock.patch.object(owner, name, function))
        patches.enter_context(mock.patch.object(wrapper, "exec", _run_on_meta, create=True))
        # Python's operator asks the card for itself, where the function does not.
        patches.enter_context(mock.patch.object(Tensor, "__invert__", _inverted))
        # Constants are folded by computing them on the card, and padding is tried there.
        patches.enter_context(config.patch(joint_graph_constant_folding=False, shape_padding=False))
        yield kernels


def exported(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """Export a module whose parameters, like its inputs, are on no device, as if on the card."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv(tracked_fakes=[])
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True, export=True)
    with mode:
        for owner in module.modules():
            for name, tensor in list(owner.named_parameters(recurse=False)):
                setattr(owner, name, nn.Parameter(_on_card(tensor), requires_grad=False))
            for name, buffer in list(owner.named_buffers(recurse=False)):
                setattr(owner, name, _on_card(buffer))
        examples = tuple(_on_card(tensor) for tensor in inputs.values())
    with tracing(TracingContext(mode)), torch.no_grad():
        return torch.export.export(module, examples, strict=False)


def launches(package: Path) -> list[str]:
    """Return what a package's code calls on the card, in order: kernels, and torch's functions."""
    with zipfile.ZipFile(package) as archive:
        (source,) = (name for name in archive.namelist() if name.endswith(".wrapper.cpp"))
        lines = archive.read(source).decode().splitlines()
    calls = (_CALL.search(line) for line in lines if not _DEFINITION.match(line))
    return [call[1] for call in calls if call]


def _on_card(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def _properties(card: Card) -> SimpleNamespace:
    return SimpleNamespace(
        name=card.name,
        major=card.capability[0],
        minor=card.capability[1],
        total_memory=card.memory_bytes,
        multi_processor_count=card.multiprocessors,
        warp_size=32,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=card.shared_bytes,
        shared_memory_per_multiprocessor=card.shared_bytes + 1024,
        L2_cache_size=50 << 20,
        gcnArchName="",
    )


class _Functions:
    """The answers to what PyTorch asks before it compiles."""

    def __init__(self, card: Card, properties: SimpleNamespace) -> None:
        self.properties = _always(properties)
        major, minor = card.capability
        self.of_torch = {
            "is_available": _always(True),
            "device_count": _always(1),
            "current_device": _always(0),
            "get_device_properties": self.properties,
            "get_device_capability": _always(card.capability),
            "get_device_name": _always(card.name),
            "synchronize": _nothing,
            "_lazy_init": _nothing,
            "is_bf16_supported": _always(True),
            "get_rng_state": _always(torch.get_rng_state()),
            "set_rng_state": _nothing,
            "_exchange_device": _always(0),
            "_maybe_exchange_device": _always(0),
        }
        self.of_c = {
            "_cuda_getDevice": _always(0),
            "_cuda_getCurrentRawStream": _always(0),
            "_cuda_exchangeDevice": _always(0),
            "_cuda_maybeExchangeDevice": _always(0),
        }
        self.of_interface = {
            "is_available": staticmethod(_always(True)),
            "get_device_properties": staticmethod(self.properties),
            "get_compute_capability": staticmethod(_always(10 * major + minor)),
            "current_device": staticmethod(_always(0)),
            "device_count": staticmethod(_always(1)),
            "get_raw_stream": staticmethod(_always(0)),
            "exchange_device": staticmethod(_always(0)),
            "maybe_exchange_device": staticmethod(_always(0)),
            "set_device": staticmethod(_nothing),
            "synchronize": staticmethod(_nothing),
        }


def _always(value: Any) -> Any:
    """Return a function that returns `value`, whatever it is called with."""
    return lambda *_given, **_named: value


_nothing = _always(None)


@contextmanager
def _driver(card: Card, folder: Path) -> Iterator[None]:
    """Compile the driver and open it, where Triton's libraries and the linker will find it."""
    source, library = folder / "driver.cpp", folder / "libcuda.so.1"
    source.write_text(_DRIVER, encoding="ascii")
    major, minor = card.capability
    given = {
        "MULTIPROCESSORS": card.multiprocessors,
        "MAJOR": major,
        "MINOR": minor,
        "SHARED": card.shared_bytes,
    }
    defined = [f"-D{name}={value}" for name, value in given.items()]
    options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", *defined]
    subprocess.run(["g++", *options, "-o", library, source], check=True)
    (folder / "libcuda.so").symlink_to(library.name)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    environment = dict.fromkeys(("TRITON_LIBCUDA_PATH", "LIBRARY_PATH"), str(folder))
    with mock.patch.dict("os.environ", environment):
        yield


def _compiling(kernels: dict[str, Kernel]) -> Any:
    """Return what takes the place of running a kernel: it is compiled, and its code kept."""

    def run(self: Any, *_given: Any, stream: int, **_named: Any) -> None:
        self.precompile()
        launcher = self.launchers[0]
        name = self.inductor_meta["kernel_name"]
        told = launcher.bin.metadata
        kernels[name] = Kernel(name, told.shared, told.num_warps, launcher.bin.asm["ptx"])
        if launcher.store_cubin:
            self.save_gpu_kernel(stream, launcher)

    return run


def _run_on_meta(code: str, scope: dict[str, Any]) -> None:
    """Run what times kernels: with tensors on no device, so that it only compiles them."""
    definitions, marker, calls = code.rpartition("del async_compile")
    for device in ("'cuda:0'", "'cuda'"):
        calls = calls.replace(device, "'meta'")
    exec(compile(definitions + marker + calls, "autotuning", "exec"), scope)


def _inverted(tensor: Tensor) -> Tensor:
    return torch.bitwise_not(tensor)
