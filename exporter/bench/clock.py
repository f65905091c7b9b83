"""Clocks of measurements: what a call takes where its work goes on after it has returned.

A card computes while its process goes on. Its clock first waits until the card is done, on every
stream, by the driver alone: so it is the same for torch and for onnxruntime, and needs neither.
"""

import time
from typing import Protocol

from exporter.system.accelerators import CardContext, Device


class Clock(Protocol):
    """A clock, and the memory in use, of the device that a model runs on."""

    def now(self) -> float:
        """Return the time in seconds when all work that was asked for is done."""
        ...

    def used_bytes(self) -> int | None:
        """Return how much of a card's memory is in use; None for a CPU."""
        ...


class HostClock:
    """The clock of models on a CPU, whose calls return when their work is done."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.perf_counter()

    def used_bytes(self) -> None:
        """Return None: there is no card."""


class CardClock:
    """The clock of models on a card."""

    def __init__(self) -> None:
        self._context = CardContext()

    def now(self) -> float:
        """Wait for the card, and return the time in seconds."""
        self._context.synchronize()
        return time.perf_counter()

    def used_bytes(self) -> int:
        """Return the card's memory in use, by all processes together."""
        return self._context.used_bytes()


def clock_of(device: Device) -> Clock:
    """Return the clock of a kind of device.

    Raises:
        MachineError: It is a card, and none works here.
    """
    return CardClock() if device == "cuda" else HostClock()
