"""The device-specific parts of compiling, opening and calling a package."""

import shlex
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.system.accelerators import Device

# Flags for small libraries without paths of the machine that compiled them.
LIBRARY_FLAGS = (
    "-fvisibility=hidden -ffunction-sections -Wl,--gc-sections -Wl,--build-id=none -s "
    # Inductor assembles constants without saying that they need no executable stack, and newer C
    # libraries load nothing that needs one.
    "-Wl,-z,noexecstack "
    '-Wno-builtin-macro-redefined -D__FILE__=\\"package\\"'
)


class Support:
    """What tensors of a kind of device are.

    Attributes:
        torch_device: The device of weights, inputs and outputs.
        captures: Whether calls can be captured, and so may not overlap.
    """

    torch_device: torch.device
    captures = False

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor is on the package's device."""
        return tensor.device.type == self.torch_device.type

    def take(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a tensor on the device, converted to `dtype` and contiguous."""
        return tensor.to(self.torch_device, dtype).contiguous()


class Cuda(Support):
    """Packages for one NVIDIA GPU, the first that the process may use."""

    torch_device = torch.device("cuda", 0)
    captures = True


class Cpu(Support):
    """Packages of C++ for an x86-64 level.

    Attributes:
        shims: Prefix of the C functions by which a package calls our kernels.
    """

    torch_device = torch.device("cpu")
    shims = "aoti_torch_cpu"

    def kernel_flags(self, march: str, extensions: Sequence[str], threads: int | None) -> list[str]:
        """Return the C++ compiler's flags for our own kernels."""
        capability = "AVX512" if march == "x86-64-v4" else "AVX2"
        return [
            *("-std=c++20", "-O3", "-fPIC", "-fopenmp", f"-march={march}"),
            *(f"-m{name.replace('_', '')}" for name in extensions),
            *(f"-DCPU_CAPABILITY_{capability}", f"-DCPU_CAPABILITY={capability}"),
            *([f"-DEXPORTER_THREADS={threads}"] if threads else []),
            *shlex.split(LIBRARY_FLAGS),
        ]

    def inductor_settings(
        self, march: str, threads: int | None, *, few_rows: bool
    ) -> dict[str, Any]:
        """Return Inductor's settings.

        The loops of a graph with few rows run in one thread: starting and ending the others takes
        longer than what there is to do.

        Without freezing: it would widen weights that are stored in 16 bits, and pack weights in a
        way that only this CPU understands. All weights stay tensors: Inductor writes the values of
        short vectors into the code, and graphs are compiled without values.
        """
        return {
            "cpp.march": march,
            "cpp.dynamic_threads": threads is None and not few_rows,
            "cpp.threads": 1 if few_rows else threads or -1,
            "freezing": False,
            "always_keep_tensor_constants": True,
            "aot_inductor.package_constants_in_so": False,
            "compile_threads": 1,
            "aot_inductor.compile_wrapper_opt_level": "Os",
            "aot_inductor.precompile_headers": False,  # needs the openssl command
            "aot_inductor.enable_line_tables": False,
            "aot_inductor.enable_frame_pointer": False,
        }


CPU = Cpu()
SUPPORT: dict[Device, Support] = {"cpu": CPU, "cuda": Cuda()}
