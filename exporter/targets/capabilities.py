"""Describe this machine, and what it supports for each kind of artifact.

Imports no torch, so that `exporter machine` is fast; each target describes its own part. What has
to be measured is in `exporter.bench.microbench`.
"""

from dataclasses import asdict
from typing import Any

from exporter.system import accelerators, hardware
from exporter.targets import TARGETS, facts_of


def machine_capabilities() -> dict[str, Any]:
    """Return facts about this machine as plain data, and what they mean for each kind of artifact.

    Sizes are in bytes. `devices` are those that artifacts can be loaded on; the entry of each kind
    in `targets` lists the devices that it can be built for. `cuda` is NVIDIA's driver with its
    cards, or the `error` for which it does not work; None where there is no driver.
    """
    here = hardware.describe()
    return {
        "cpu": here.cpu,
        "cores": here.cores,
        "isa": here.isa,
        "features": {name: name in here.features for name in hardware.KERNEL_FEATURES},
        "caches": [asdict(cache) for cache in hardware.caches()],
        "memory_bytes": here.memory_bytes,
        "memory_available_bytes": hardware.memory_available_bytes(),
        "devices": [asdict(device) for device in accelerators.devices()],
        "cuda": _cuda(),
        "compiler": hardware.cxx_compiler(),
        "targets": {kind: _target_row(kind, here) for kind in TARGETS},
    }


def _target_row(kind: str, here: hardware.Machine) -> dict[str, Any]:
    facts = facts_of(kind)
    return {**facts.machine_offer(here).as_row(), "devices": list(facts.COSTS)}


def _cuda() -> dict[str, Any] | None:
    try:
        driver = accelerators.cuda_driver()
    except accelerators.DriverError as error:
        return {"error": str(error)}
    if driver is None:
        return None
    return {"version": driver.cuda, "cards": [asdict(card) for card in driver.cards]}
