"""An artifact's manifest as opening needs it, read and checked without pydantic.

`exporter.artifact.manifest` describes and writes the whole file, and is its full reader.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from exporter.system.accelerators import MATCHES, GpuNeeds
from exporter.system.hardware import MAX_THREADS

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"

_MAX_TEXT = 4096
_MAX_COUNT = 1 << 63
_SHA256 = re.compile("[0-9a-f]{64}")
VERSION = r"^(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})$"  # like 9.0, of a capability and of CUDA
_Check = Callable[[Any], bool]


@dataclass(frozen=True)
class SealedFile:
    """One sealed file: its POSIX path inside the artifact, its size and its hash."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Needs:
    """The features, packages and device that an artifact needs."""

    cpu_features: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    device: str = "cpu"
    gpu: GpuNeeds | None = None


@dataclass(frozen=True)
class SealedManifest:
    """What a manifest says to who opens the artifact.

    Attributes:
        recipe: The name of the recipe.
        threads: The number of threads that the artifact was compiled for; None if for any.
        decoding: The recipe's decoding, every option; empty in artifacts of earlier releases.
        digest: The artifact's identity: sha256 of the manifest's bytes.
        content: These bytes.
    """

    name: str
    kind: str
    family: str
    recipe: str
    needs: Needs
    threads: int | None
    decoding: Mapping[str, Any]
    files: tuple[SealedFile, ...]
    digest: str
    content: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of all sealed files."""
        return sum(file.size_bytes for file in self.files)


class EditedError(ValueError):
    """A manifest whose bytes are not those that a build writes."""


def parse(content: bytes) -> SealedManifest:
    """Read a manifest's bytes.

    Raises:
        EditedError: They are another form of what they say.
        ValueError: They are no manifest; the message has one line.
    """
    try:
        values = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
        canonical = json.dumps(values, indent=1, sort_keys=True, allow_nan=False)
    except RecursionError:
        msg = "it is nested too deep"
        raise ValueError(msg) from None
    _require("manifest", values, _MANIFEST, optional=_ABSENT_IF_EMPTY)
    files = []
    for each in values.get("files", ()):
        _require("files", each, _FILE)
        files.append(SealedFile(**each))
    for name, inner in _INNER.items():
        _require(name, values[name], inner)
    needs = _needs(values["needs"])
    if canonical.encode() + b"\n" != content or values["needs"].get("device") == "cpu":
        msg = "it is not as a build writes it"
        raise EditedError(msg)
    return SealedManifest(
        name=values["name"],
        kind=values["kind"],
        family=values["family"],
        recipe=values["recipe"]["name"],
        needs=needs,
        threads=values["options"].get("threads"),
        decoding=values.get("decoding", {}),
        files=tuple(files),
        digest=hashlib.sha256(content).hexdigest(),
        content=content,
    )


def _needs(values: Any) -> Needs:
    _require("needs", values, _NEEDS, optional=("device", "gpu"))
    device, gpu = values.get("device", "cpu"), values.get("gpu")
    if (device == "cuda") != (gpu is not None):
        _refuse("needs", "has one of the device cuda and gpu alone")
    if gpu is not None:
        _require("needs.gpu", gpu, _GPU)
        gpu = GpuNeeds.of(**gpu)
    return Needs(tuple(values["cpu_features"]), tuple(values["packages"]), device, gpu)


def _require(
    where: str, values: Any, checks: Mapping[str, _Check], optional: Collection[str] = ()
) -> None:
    """Raise ValueError unless an object has these keys, with such values, and no others."""
    if not isinstance(values, dict):
        _refuse(where, "is no object")
    for name in values:
        if name not in checks:
            _refuse(where, f"has an unknown key {name[:60]!r}")
    for name, check in checks.items():
        if name not in values:
            if name not in optional:
                _refuse(where, f"has no {name}")
        elif not check(values[name]):
            _refuse(where, f"has no usable {name}")


def _refuse(where: str, problem: str) -> NoReturn:
    msg = f"{where}: it {problem}"
    raise ValueError(msg)


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is no number"
    raise ValueError(msg)


def _text(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return False
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _hash(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_COUNT


def _version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(VERSION, value) is not None


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1e12


def _object(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value))


def _told(value: Any) -> bool:
    """Return whether a value that is left out where it is empty says something."""
    return isinstance(value, dict | list) and bool(value)


def _options(value: Any) -> bool:
    if not _object(value):
        return False
    threads = value.get("threads")
    return threads is None or (type(threads) is int and 0 < threads <= MAX_THREADS)


_FILE: Mapping[str, _Check] = {"path": _text, "size_bytes": _count, "sha256": _hash}
_NEEDS: Mapping[str, _Check] = {
    "cpu_features": _texts,
    "packages": _texts,
    "device": _text,
    "gpu": _object,
}
_GPU: Mapping[str, _Check] = {
    "capability": _version,
    "match": MATCHES.__contains__,
    "cuda": _version,
    "memory_bytes": lambda value: _count(value) and value > 0,
}
_INNER: Mapping[str, Mapping[str, _Check]] = {
    "recipe": {"name": _text, "sha256": _hash, "source": _text},
    "checkpoint": {
        "source": _text,
        "revision": lambda value: value is None or _text(value),
        "sha256": _hash,
        "size_bytes": _count,
        "parameters": _count,
    },
}
_ABSENT_IF_EMPTY = ("choices", "quantization", "calibration", "decoding", "built_on")
# Of what opening does not use, only the outermost form is checked.
_MANIFEST: Mapping[str, _Check] = {
    "schema_version": lambda value: type(value) is int and value == 1,
    "name": _text,
    "kind": _text,
    "family": _text,
    "options": _options,
    "recipe": _object,
    "checkpoint": _object,
    "needs": _object,
    "versions": lambda value: _object(value) and all(map(_text, value.values())),
    "machine": _object,
    "build": _object,
    "build_key": _text,
    "files": lambda value: isinstance(value, list),
    **dict.fromkeys(_ABSENT_IF_EMPTY, _told),
}
