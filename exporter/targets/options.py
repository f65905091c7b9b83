"""What every target can be asked for, whatever else its own options are."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from exporter.system.accelerators import DEVICES, Device


class TargetOptions(BaseModel):
    """A target's options in a recipe, as frozen data; each target adds its own.

    `device` is what the artifact is built for. It is left out of what is written down where it is
    the CPU: so manifests and build keys that are older than the option keep their bytes.
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
