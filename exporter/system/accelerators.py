"""The kinds of device that artifacts run on, and those that this machine has.

A new kind needs a name in `Device` and its detection in `devices`; a target supports it if it has
costs for it.

NVIDIA's cards are told by their driver alone, without torch or a toolkit: `libcuda.so.1` is opened
by ctypes, and heeds CUDA_VISIBLE_DEVICES, as in every other program. Its functions are those of
https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
An artifact runs on the first card that this variable leaves.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

from exporter.errors import MachineError
from exporter.system import hardware
from exporter.system.progress import shown_bytes

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)

_WORDS: dict[str, str] = {"cpu": "a CPU", "cuda": "an NVIDIA GPU"}

Match = Literal["exact", "major", "minimum"]
MATCHES: tuple[Match, ...] = get_args(Match)

LIBCUDA = "libcuda.so.1"
VISIBLE = "CUDA_VISIBLE_DEVICES"
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
    return [
        DeviceInfo("cpu", here.cpu, here.memory_bytes),
        *(DeviceInfo("cuda", card.name, card.memory_bytes) for card in cards()),
    ]


def cards() -> tuple[Card, ...]:
    """Return the cards that this process may use; none where the driver does not work."""
    try:
        driver = cuda_driver()
    except DriverError:
        return ()
    return driver.cards if driver else ()


def in_words(device: str) -> str:
    """Return a kind of device as words for a sentence; of an unknown kind, its name."""
    return _WORDS.get(device, device)


def require_device(name: str, gpu: GpuNeeds | None = None, what: str = "this artifact") -> Device:
    """Return the kind of device of that name; raise MachineError if this machine has none.

    The driver of cards is not asked for a CPU: that takes time, and a process that has asked it
    cannot fork and use cards.

    Args:
        name: A kind of device, which a manifest of a newer exporter may name.
        gpu: What is needed of a card, where the device is one.
        what: The subject of the error's sentence.

    Raises:
        MachineError: This machine has no such device, or it is unknown to this exporter.
    """
    if name == "cpu":
        return "cpu"
    if name == "cuda":
        require_gpu(gpu, what)
        return "cuda"
    msg = f"{what} needs the device {name!r:.60}; known here: {', '.join(DEVICES)}: update exporter"
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

    def __str__(self) -> str:
        return f"{self.name} (compute capability {_dotted(self.capability)})"


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


@dataclass(frozen=True)
class GpuNeeds:
    """What an artifact needs of an NVIDIA GPU and its driver; see `exporter.artifact.manifest.Gpu`.

    Attributes:
        capability: A compute capability, like (9, 0).
        match: Which capabilities of cards go with it.
        cuda: The version of CUDA that it was built with, like (13, 0).
        memory_bytes: The card's memory that a loaded artifact takes.
    """

    capability: tuple[int, int]
    match: Match
    cuda: tuple[int, int]
    memory_bytes: int

    @classmethod
    def of(cls, *, capability: str, match: Match, cuda: str, memory_bytes: int) -> GpuNeeds:
        """Return the needs that a manifest has as text, like "9.0" and "13.0"."""
        return cls(_numbers(capability), match, _numbers(cuda), memory_bytes)

    def in_full(self) -> str:
        """Return all that is needed, as words for a list."""
        memory = shown_bytes(self.memory_bytes)
        return f"{self} with {memory} of memory, a driver for CUDA {self.cuda[0]}"

    def __str__(self) -> str:
        which = {"exact": "", "major": " or a later one of that major", "minimum": " or later"}
        capability = f"compute capability {_dotted(self.capability)}{which[self.match]}"
        return f"an NVIDIA GPU of {capability}"

    def suits(self, capability: tuple[int, int]) -> bool:
        """Return whether code for these needs runs on a card of a compute capability."""
        if self.match == "exact":
            return capability == self.capability
        if self.match == "major" and capability[0] != self.capability[0]:
            return False
        return capability >= self.capability


def require_gpu(needs: GpuNeeds | None, what: str = "this artifact") -> Card:
    """Check that the first card and its driver are as needed, by the driver alone.

    Args:
        needs: What is needed; None if any card will do.
        what: The subject of the error's sentence.

    Returns:
        The card.

    Raises:
        MachineError: There is no driver, it does not work, shows no card or runs older versions of
            CUDA alone; or the card is of another capability or has too little memory.
    """
    wanted = f"{what} needs {needs or in_words('cuda')}"
    try:
        driver = cuda_driver()
    except DriverError as error:
        _refuse(
            f"{wanted}, and NVIDIA's driver does not work here.\n{error}.\n"
            "See whether `nvidia-smi` works; after an update of the driver, start the machine anew."
        )
    if driver is None:
        _refuse(
            f"{wanted}, and there is no NVIDIA driver here ({LIBCUDA} is missing).\n"
            "Install the driver; a container needs its host's: docker run --gpus all."
        )
    if not driver.cards:
        _refuse(f"{wanted}, and NVIDIA's driver shows no card.\n{_why_no_card()}")
    card = driver.cards[0]
    if needs is not None:
        _require_suitable(needs, driver, card, what)
    return card


def _require_suitable(needs: GpuNeeds, driver: Driver, card: Card, what: str) -> None:
    if driver.cuda[0] < needs.cuda[0]:
        _refuse(
            f"{what} needs a driver for CUDA {needs.cuda[0]}; the one here is for CUDA "
            f"{_dotted(driver.cuda)}.\nUpdate NVIDIA's driver: see "
            "https://docs.nvidia.com/deploy/cuda-compatibility"
        )
    if not needs.suits(card.capability):
        other = _other_card(needs, driver)
        _refuse(
            f"{what} needs {needs}; the card here is {card}.\n"
            f"{other or 'Build it for this card, or load it on one that it was built for.'}"
        )
    if card.memory_bytes < needs.memory_bytes:
        other = _other_card(needs, driver)
        _refuse(
            f"{what} needs {shown_bytes(needs.memory_bytes)} of a GPU's memory; {card.name} has "
            f"{shown_bytes(card.memory_bytes)}.\n"
            f"{other or 'Load it on a larger card, or build it for fewer rows or with int8.'}"
        )


def _other_card(needs: GpuNeeds, driver: Driver) -> str:
    """Return what to do if another card of this machine is as needed; else nothing."""
    for ordinal, card in enumerate(driver.cards):
        if needs.suits(card.capability) and card.memory_bytes >= needs.memory_bytes:
            shown = [each.strip() for each in os.environ.get(VISIBLE, "").split(",")]
            name = shown[ordinal] if ordinal < len(shown) and shown[ordinal] else str(ordinal)
            return f"Set {VISIBLE}={name} to run it on {card}."
    return ""


def _why_no_card() -> str:
    if VISIBLE in os.environ:
        return f"{VISIBLE} is {os.environ[VISIBLE]!r:.60}: unset it, or name a card."
    return "See `nvidia-smi`; a container needs its host's cards: docker run --gpus all."


def _refuse(message: str) -> NoReturn:
    raise MachineError(message)


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def cuda_driver() -> Driver | None:
    """Return the driver and its cards; None where there is no driver.

    Raises:
        DriverError: The driver does not work, as when it and the kernel's module differ.
    """
    try:
        library = _library()
    except OSError:
        return None
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        return Driver(_version(library), ())
    _require(library, "cuInit", code)
    count = c_int()
    _require(library, "cuDeviceGetCount", library.cuDeviceGetCount(byref(count)))
    return Driver(_version(library), tuple(_card(library, n) for n in range(count.value)))


def _library() -> Any:
    return ctypes.CDLL(LIBCUDA)


class CardContext:
    """The primary context of the first card: the one in which torch and onnxruntime compute.

    Its functions are those of
    https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__CTX.html and group__CUDA__MEM.html

    Raises:
        MachineError: There is no card that works.
    """

    def __init__(self) -> None:
        require_gpu(None, "this")
        self._driver = _library()
        device, self._handle = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", byref(self._handle), device)

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            MachineError: It answers with an error.
        """
        try:
            _require(self._driver, function, getattr(self._driver, function)(*arguments))
        except DriverError as error:
            raise MachineError(str(error)) from None

    def enter(self) -> None:
        """Make it the context of this thread's calls."""
        self.call("cuCtxSetCurrent", self._handle)

    def synchronize(self) -> None:
        """Wait until the card has done what this process asked of it, on every stream."""
        self.enter()
        self.call("cuCtxSynchronize")

    def free_bytes(self) -> int:
        """Return how much of the card's memory is free."""
        return self._memory()[0]

    def used_bytes(self) -> int:
        """Return how much of the card's memory is in use, by all processes together."""
        free, total = self._memory()
        return total - free

    def _memory(self) -> tuple[int, int]:
        free, total = c_size_t(), c_size_t()
        self.enter()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value


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
