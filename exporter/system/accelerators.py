"""The kinds of device that artifacts run on, and those that this machine has.

A new kind needs a name in `Device` and its detection in `devices`; a target supports it if it has
costs for it.
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
