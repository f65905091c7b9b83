"""The kinds of device that artifacts run on, and those that this machine has.

A new kind takes its name in `Device` and what finds it in `devices`; each target then says by its
costs whether it is built for it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from exporter.errors import MachineError
from exporter.system import hardware

Device = Literal["cpu"]
DEVICES: tuple[Device, ...] = get_args(Device)

_WORDS: dict[str, str] = {"cpu": "a CPU"}


@dataclass(frozen=True)
class DeviceInfo:
    """One device of this machine: its model's name, and the bytes of memory that it computes in."""

    device: Device
    name: str
    memory_bytes: int


def devices() -> list[DeviceInfo]:
    """Return the devices of this machine that artifacts can be loaded on."""
    here = hardware.describe()
    return [DeviceInfo("cpu", here.cpu, here.memory_bytes)]


def in_words(device: str) -> str:
    """Return a kind of device as a sentence has it; of an unknown kind, its name."""
    return _WORDS.get(device, device)


def require_device(name: str, what: str = "this artifact") -> Device:
    """Return the kind of device of that name, of which this machine has one.

    Args:
        name: A kind of device, as a caller or a manifest of any exporter names it.
        what: The subject of the error's sentence.

    Raises:
        MachineError: where this machine, as far as this exporter knows, has no such device.
    """
    offered = [info.device for info in devices()]
    for device in offered:
        if device == name:
            return device
    msg = f"{what} needs the device {name!r:.60}; devices here: {', '.join(offered)}"
    raise MachineError(msg)
