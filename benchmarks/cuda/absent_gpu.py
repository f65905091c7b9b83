"""Let torch trace, and Inductor generate code, for a GPU that is not there.

Nothing of it can run. What is patched belongs to torch 2.13, and only the process that asks for it
is changed, for good.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

_GUARD = """\
#include <c10/core/impl/DeviceGuardImplInterface.h>
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
"""

H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    total_memory=85_028_044_800,
    multi_processor_count=132,
    regs_per_multiprocessor=65_536,
    max_threads_per_multi_processor=2_048,
    max_threads_per_block=1_024,
    warp_size=32,
    shared_memory_per_block=49_152,
    shared_memory_per_block_optin=232_448,
    L2_cache_size=50 << 20,
    gcnArchName="",
)


def let_tensors_be_on_cuda(folder: Path) -> None:
    """Let fake tensors be on the device "cuda" in this process, although torch has no CUDA.

    Args:
        folder: A folder for a small library.
    """
    source, library = folder / "guard.cpp", folder / "guard.so"
    source.write_text(_GUARD)
    where = Path(torch.__file__).parent
    flags = [f"-I{where / 'include'}", f"-L{where / 'lib'}", "-lc10"]
    command = ["g++", "-std=c++20", "-shared", "-fPIC", str(source), "-o", str(library), *flags]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library))


def pretend(card: SimpleNamespace = H100) -> None:
    """Answer what Inductor asks of a card and of Triton's driver."""
    from torch._dynamo import device_interface
    from torch._inductor.fx_passes import joint_graph, post_grad
    from triton.runtime import driver

    # Their patterns are made of tensors with memory.
    unchanged: Any = lambda *_: None  # noqa: E731
    joint_graph.lazy_init = post_grad.lazy_init = unchanged
    answers: dict[str, Any] = {
        "get_device_properties": lambda *_: card,
        "get_device_capability": lambda *_: (card.major, card.minor),
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "_lazy_init": lambda: None,
        "_exchange_device": lambda _: 0,
        "_maybe_exchange_device": lambda _: 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch.version.cuda = "13.0"
    device_interface.get_interface_for_device("cpu")  # registers torch's own first
    for name in ("cuda", "cuda:0"):
        device_interface.register_interface_for_device(name, _interface(card))
    driver.set_active(_Driver(card))


class _Driver:
    """Triton's driver, as far as code generation asks it."""

    def __init__(self, card: SimpleNamespace) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", 10 * card.major + card.minor, card.warp_size)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0


def _interface(card: SimpleNamespace) -> Any:
    """Return dynamo's description of a kind of device."""
    from torch._dynamo import device_interface

    class Worker:
        set_device = staticmethod(lambda _: None)
        current_device = staticmethod(lambda: 0)
        get_device_properties = staticmethod(lambda *_: card)

    class Device:
        def __init__(self, _: object) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    members = {
        "Worker": Worker,
        "device": Device,
        "current_device": staticmethod(lambda: 0),
        "device_count": staticmethod(lambda: 1),
        "is_available": staticmethod(lambda: True),
        "get_device_properties": staticmethod(lambda *_: card),
        "get_compute_capability": staticmethod(lambda *_: 10 * card.major + card.minor),
        "synchronize": staticmethod(lambda *_: None),
        "get_raw_stream": staticmethod(lambda _: 0),
        "set_device": staticmethod(lambda _: None),
        "exchange_device": staticmethod(lambda _: 0),
        "maybe_exchange_device": staticmethod(lambda _: 0),
        "is_triton_capable": staticmethod(lambda *_: True),
        "raise_if_triton_unavailable": staticmethod(lambda *_: None),
        "is_bf16_supported": staticmethod(lambda *_: True),
    }
    return type("Absent", (device_interface.DeviceInterface,), members)
