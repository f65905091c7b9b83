"""The manifest: what an artifact holds, what it was made from, and what it needs.

Its bytes are the artifact's identity, so those of older artifacts must stay what they are: a field
that is added is left out where it says nothing. It is `AbsentIfEmpty[...]`, with an empty default,
or has an `exclude_if` of its own.
"""

import hashlib
import json
import operator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from exporter.runtime.manifest import MANIFEST as MANIFEST  # re-exported for importers
from exporter.runtime.manifest import RECIPE as RECIPE
from exporter.runtime.manifest import VERSION
from exporter.system.accelerators import GpuNeeds, Match
from exporter.system.hardware import MAX_THREADS

_Value = TypeVar("_Value")
AbsentIfEmpty = Annotated[_Value, Field(exclude_if=operator.not_)]
"""A field that is written only where it says something: `name: AbsentIfEmpty[Value] = {}`."""


_Text = Annotated[str, Field(max_length=4096)]
_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Seconds = Annotated[float, Field(ge=0, le=1e12)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class File(_Frozen):
    """One sealed file: its POSIX path inside the artifact, its size and its hash."""

    path: _Text
    size_bytes: _Count
    sha256: _Sha256


class Origin(_Frozen):
    """The checkpoint that an artifact was built from; `revision` is a commit on the Hub.

    `source` is a Hub id, or the name of a folder: manifests may be published, paths may not.
    """

    source: _Text
    revision: _Text | None
    sha256: _Sha256
    size_bytes: _Count
    parameters: _Count


class RecipeStamp(_Frozen):
    """The recipe an artifact was built by; `source` is the name of the file it was read from."""

    name: _Text
    sha256: _Sha256
    source: _Text


class Gpu(_Frozen):
    """What an artifact needs of an NVIDIA GPU and its driver.

    Attributes:
        capability: A compute capability, like "9.0".
        match: Which capabilities of cards go with it:
            "exact": this one. So does machine code of an architecture-specific target, which
            Triton compiles for Hopper and later ("sm_90a").
            "major": the same major number, and a minor one that is no smaller. So does any other
            machine code (a cubin).
            "minimum": this one and all later ones. So does PTX, and so does an artifact without
            code of its own: the kernels are those of its runtime.
        cuda: The version of CUDA that it was built with, like "13.0". The driver must run this
            major version or a later one.
        memory_bytes: The card's memory that a loaded artifact takes: weights, the caches of its
            rows, and the workspace of its largest graph.
    """

    capability: Annotated[str, Field(pattern=VERSION)]
    match: Match
    cuda: Annotated[str, Field(pattern=VERSION)]
    memory_bytes: Annotated[int, Field(gt=0, lt=1 << 63)]

    def as_needs(self) -> GpuNeeds:
        """Return what `exporter.system.accelerators` checks."""
        return GpuNeeds.of(**self.model_dump())


class Requirements(_Frozen):
    """The features, packages and device that an artifact needs.

    `device` is a kind of device, which may be known only to a newer exporter. It is left out of
    the manifest where it is the CPU, so that older manifests keep their bytes. `gpu` belongs to
    the device "cuda".
    """

    cpu_features: tuple[_Text, ...] = ()
    packages: tuple[_Text, ...] = ()
    device: _Text = Field(default="cpu", exclude_if=lambda device: device == "cpu")
    gpu: AbsentIfEmpty[Gpu | None] = None

    @model_validator(mode="after")
    def _gpu_with_its_device(self) -> "Requirements":
        if (self.device == "cuda") != (self.gpu is not None):
            msg = "the device cuda and gpu go together"
            raise ValueError(msg)
        return self


class AutotuneResult(_Frozen):
    """The form that a build chose for one graph, and the `seconds` of a call of each candidate.

    Times are measured with each count of `layers` and extrapolated to `depth` layers. A single
    candidate is not timed.
    """

    chosen: _Text
    seconds: dict[_Text, _Seconds] = {}
    layers: tuple[_Count, ...] = ()
    depth: _Count


class QuantizedModules(_Frozen):
    """The modules that have one scheme with the same parameters."""

    scheme: _Text
    parameters: dict[_Text, Any] = {}
    modules: tuple[_Text, ...]


class Calibration(_Frozen):
    """What the ranges in a plan were calibrated on, and how.

    Attributes:
        method: How each range was chosen.
        percentile: The percentage of values that it keeps, for the method `percentile`.
        clips: The number of recordings.
        seconds: Their duration together.
        sha256: The hash of the recordings' hashes, in order.
    """

    method: _Text
    percentile: AbsentIfEmpty[float | None] = None
    clips: _Count
    seconds: _Seconds
    sha256: _Sha256


class BuiltOn(_Frozen):
    """The card that a build compiled and measured on, and its compilers; nothing is checked by it.

    What a compiler chose by timing may differ from card to card of one capability.

    Attributes:
        gpu: The card's name, like "NVIDIA H100 80GB HBM3".
        multiprocessors: Its streaming multiprocessors.
        torch: torch's version, like "2.13.0+cu130".
        triton: Triton's version.
    """

    gpu: _Text
    multiprocessors: _Count
    torch: _Text
    triton: _Text


class BuildResult(_Frozen):
    """The answer of a target's build: requirements, resolved options, plan and choices.

    `built_on` is set by a build that used a card.
    """

    needs: Requirements
    options: dict[str, Any]
    quantization: tuple[QuantizedModules, ...]
    choices: dict[str, AutotuneResult] = {}
    built_on: BuiltOn | None = None


class Predicted(_Frozen):
    """The estimate before the build: the artifact's size, the build step, and the first reload."""

    size_bytes: _Count
    peak_rss_bytes: _Count
    reload_rss_bytes: _Count
    seconds: _Seconds


class BuildFigures(_Frozen):
    """The cost of the build on the machine that ran it, and the estimate before it."""

    seconds: _Seconds
    peak_rss_bytes: _Count
    predicted: AbsentIfEmpty[Predicted | None] = None


class Manifest(_Frozen):
    """The description of an artifact, which is read without opening its models.

    `decoding` has every option of the recipe's `decoding`, for who opens the artifact without
    reading YAML. `exporter.runtime.manifest` reads what opening needs.
    """

    schema_version: Literal[1] = 1
    name: _Text
    kind: _Text
    family: _Text
    options: dict[_Text, Any]
    recipe: RecipeStamp
    checkpoint: Origin
    needs: Requirements
    versions: dict[_Text, _Text]
    machine: dict[_Text, Any]
    build: BuildFigures
    build_key: _Text
    choices: AbsentIfEmpty[dict[_Text, AutotuneResult]] = {}
    quantization: AbsentIfEmpty[tuple[QuantizedModules, ...]] = ()
    calibration: AbsentIfEmpty[Calibration | None] = None
    decoding: AbsentIfEmpty[dict[_Text, Any]] = {}
    built_on: AbsentIfEmpty[BuiltOn | None] = None
    files: tuple[File, ...] = ()

    @field_validator("options")
    @classmethod
    def _has_usable_threads(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Check the option that loading uses; the others describe the build."""
        threads = options.get("threads")
        if threads is not None and (type(threads) is not int or not 0 < threads <= MAX_THREADS):
            msg = f"threads is no number from 1 to {MAX_THREADS}"
            raise ValueError(msg)
        return options

    @property
    def threads(self) -> int | None:
        """The number of threads that the artifact was compiled for; None if for any."""
        threads: int | None = self.options.get("threads")
        return threads

    def __repr__(self) -> str:
        return f"Manifest({self.name}, {self.kind} of {self.family}, {self.size_bytes:,} bytes)"

    __str__ = __repr__

    def canonical(self) -> bytes:
        """Return the manifest's bytes: sorted keys, UTF-8, one final newline."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        return text.encode() + b"\n"

    @property
    def digest(self) -> str:
        """The artifact's identity: sha256 of the canonical manifest."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all sealed files."""
        return sum(file.size_bytes for file in self.files)
