"""The options that all targets have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from exporter.system.accelerators import DEVICES, Device


class TargetOptions(BaseModel):
    """A target's options in a recipe, as frozen data; each target adds its own.

    `device` is the device to build for, one of those that the kind has costs for; a kind that is
    not built for the CPU has another default. It is not serialized if it is the CPU, so that
    manifests and build keys are the same as before the option existed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device = Field(default="cpu", exclude_if=lambda device: device == "cpu")

    @field_validator("device", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value not in DEVICES:
            msg = f"unknown device {value!r:.60}; known devices: {', '.join(DEVICES)}"
            raise ValueError(msg)
        return value
