"""The device-specific parts of running an int8 state_dict."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from exporter.system.accelerators import Device
from exporter.targets.pytorch.modules import BY_SCHEME, Make


@dataclass(frozen=True)
class Support:
    """Support for one kind of device: the torch device, and its modules by scheme."""

    torch_device: torch.device
    modules: Mapping[str, Make]


SUPPORT: dict[Device, Support] = {"cpu": Support(torch.device("cpu"), BY_SCHEME)}
