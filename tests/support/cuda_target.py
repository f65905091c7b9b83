"""A target for cards that is built anywhere: the weights of `float_target`, and needs of a GPU."""

from typing import Any

from pydantic import Field
from torch import nn

from exporter.artifact.manifest import BuildResult, BuiltOn, Gpu, Requirements
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.quantization.plan import QuantizationPlan
from exporter.system.accelerators import Device
from exporter.system.hardware import Machine
from exporter.targets.base import Job
from exporter.targets.facts import Offer
from exporter.targets.options import TargetOptions
from tests.support import float_target
from tests.support.float_target import SCHEMES as SCHEMES
from tests.support.float_target import check as check
from tests.support.float_target import inspection as inspection
from tests.support.float_target import layout as layout
from tests.support.float_target import load as load
from tests.support.float_target import num_trials as num_trials
from tests.support.float_target import records as records

DEFAULT_SCHEME = "float"
COSTS = {"cuda": float_target.COSTS["cpu"]}
MEMORY_BYTES = 24_000_000_000
BUILT_ON = BuiltOn(
    gpu="NVIDIA H100 80GB HBM3", multiprocessors=132, torch="2.13.0+cu130", triton="3.7.0"
)


class Options(TargetOptions):
    """Nothing to choose."""

    device: Device = Field(default="cuda")


def machine_offer(machine: Machine) -> Offer:
    return Offer("float32 products on a card", {})


def device_memory_bytes(
    options: Options,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
) -> int:
    return MEMORY_BYTES


def build(job: Job[Any]) -> BuildResult:
    gpu = Gpu(capability="8.0", match="minimum", cuda="13.0", memory_bytes=MEMORY_BYTES)
    needs = Requirements(packages=("torch",), device=job.device, gpu=gpu)
    return float_target.write(job, needs).model_copy(update={"built_on": BUILT_ON})
