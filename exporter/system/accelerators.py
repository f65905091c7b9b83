"""The kinds of device that artifacts run on, and those that this machine has.

A new kind needs a name in `Device` and its detection in `devices`; a target supports it if it has
costs for it.

NVIDIA's cards are told by their driver alone, without torch or a toolkit: `libcuda.so.1` is opened
by ctypes, and heeds CUDA_VISIBLE_DEVICES, as in every other program. Its functions are those of
https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t
from dataclasses import dataclass
from typing import Any, Literal, get_args

from exporter.errors import MachineError
from exporter.system import hardware

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)

_WORDS: dict[str, str] = {"cpu": "a CPU", "cuda": "an NVIDIA GPU"}

LIBCUDA = "libcuda.so.1"
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True)
class DeviceInfo:
    """One device of this machine: its kind, its model's name, and its memory in bytes."""

    device: Device
    name: str
    memory_bytes: int


def devices() -> list[DeviceInfo]:
    """Return the devices of this machine that artifacts can be loaded on."""
    here = hardware.describe()
    return [DeviceInfo("cpu", here.cpu, here.memory_bytes)]


def in_words(device: str) -> str:
    """Return a kind of device as words for a sentence; of an unknown kind, its name."""
    return _WORDS.get(device, device)


def require_device(name: str, what: str = "this artifact") -> Device:
    """Return the kind of device of that name; raise MachineError if this machine has none.

    Args:
        name: A kind of device, which a manifest of a newer exporter may name.
        what: The subject of the error's sentence.

    Raises:
        MachineError: This machine has no such device, or it is unknown to this exporter.
    """
    offered = [info.device for info in devices()]
    for device in offered:
        if device == name:
            return device
    msg = f"{what} needs the device {name!r:.60}; devices here: {', '.join(offered)}"
    raise MachineError(msg)


@dataclass(frozen=True)
class Card:
    """One card.

    Attributes:
        name: Its model, like "NVIDIA H100 80GB HBM3".
        capability: Its compute capability, like (9, 0).
        multiprocessors: Its streaming multiprocessors.
        memory_bytes: Its memory.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """The driver and its cards.

    Attributes:
        cuda: The latest version of CUDA that the driver runs, like (13, 0).
        cards: The cards that this process may use, in CUDA's order.
    """

    cuda: tuple[int, int]
    cards: tuple[Card, ...]


class DriverError(Exception):
    """There is a driver, and it cannot be used; the message is its reason."""


def cuda_driver() -> Driver | None:
    """Return the driver and its cards; None where there is no driver.

    Raises:
        DriverError: The driver does not work, as when it and the kernel's module differ.
    """
    try:
        library: Any = ctypes.CDLL(LIBCUDA)
    except OSError:
        return None
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        return Driver(_version(library), ())
    _require(library, "cuInit", code)
    count = c_int()
    _require(library, "cuDeviceGetCount", library.cuDeviceGetCount(byref(count)))
    return Driver(_version(library), tuple(_card(library, n) for n in range(count.value)))


def _version(library: Any) -> tuple[int, int]:
    version = c_int()
    _require(library, "cuDriverGetVersion", library.cuDriverGetVersion(byref(version)))
    return version.value // 1000, version.value % 1000 // 10


def _card(library: Any, ordinal: int) -> Card:
    device, memory = c_int(), c_size_t()
    name = ctypes.create_string_buffer(256)
    _require(library, "cuDeviceGet", library.cuDeviceGet(byref(device), ordinal))
    code = library.cuDeviceGetName(name, c_int(len(name)), device)
    _require(library, "cuDeviceGetName", code)
    code = library.cuDeviceTotalMem_v2(byref(memory), device)
    _require(library, "cuDeviceTotalMem", code)
    major, minor, processors = (
        _attribute(library, number, device) for number in (*_CAPABILITY, _MULTIPROCESSORS)
    )
    shown = name.value.decode("utf-8", "replace")
    return Card(shown, (major, minor), processors, memory.value)


def _attribute(library: Any, number: int, device: c_int) -> int:
    value = c_int()
    code = library.cuDeviceGetAttribute(byref(value), c_int(number), device)
    _require(library, "cuDeviceGetAttribute", code)
    return value.value


def _require(library: Any, function: str, code: int) -> None:
    if code:
        text = c_char_p()
        told = library.cuGetErrorString(c_int(code), byref(text)) == 0 and text.value
        reason = text.value.decode("utf-8", "replace") if told and text.value else "unknown"
        msg = f"{LIBCUDA}: {function}: {reason} (error {code})"
        raise DriverError(msg)
