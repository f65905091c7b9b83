"""The options of an onnx-fp16 target."""

from pydantic import Field

from exporter.system.accelerators import Device
from exporter.targets.options import TargetOptions


class Options(TargetOptions):
    """`device` is "cuda", the only one, and may be left out."""

    device: Device = Field(default="cuda")
