"""What on a machine decides a model's transcripts, so that results of two kinds are not mixed."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from exporter.system import hardware
from exporter.system.files import sha256_file

_PACKAGES = (
    *("torch", "transformers", "tokenizers", "onnxruntime", "onnxruntime-gpu", "numpy"),
    *("soundfile", "soxr"),
)
_ROOT = Path(__file__).parents[1]
_SUFFIXES = {".py", ".cpp", ".h"}


@cache
def describe() -> dict[str, Any]:
    """Return plain data that is equal on machines where a model writes the same texts.

    Kernels of another level of CPU, and other versions, round otherwise.
    """
    machine = hardware.describe().as_dict()
    return {
        "cpu": [machine["isa"], *machine["features"]],
        "versions": hardware.versions_of(_PACKAGES),
        "code": _sources_sha256(),
    }


def in_words(environment: dict[str, Any]) -> str:
    """Return the CPU's level and the versions, for messages."""
    versions = (f"{name} {version}" for name, version in environment["versions"].items())
    return f"{' '.join(environment['cpu'])}, {', '.join(versions)}"


def apart(environments: Sequence[dict[str, Any]]) -> list[str]:
    """Return of each environment, in words, what is not the same in all of them."""
    named = [
        {"CPU": " ".join(each["cpu"]), **each["versions"], "exporter's code": each["code"][:8]}
        for each in environments
    ]
    names = dict.fromkeys(name for each in named for name in each)
    differ = [name for name in names if len({each.get(name) for each in named}) > 1]
    return [", ".join(f"{name} {each.get(name, 'missing')}" for name in differ) for each in named]


def _sources_sha256() -> str:
    """Hash this package's sources."""
    whole = hashlib.sha256()
    # One folder of it may be a link, which ** does not follow.
    folders = [_ROOT, *(each for each in _ROOT.iterdir() if each.is_dir())]
    found = {path for folder in folders for path in folder.rglob("*") if path.suffix in _SUFFIXES}
    for path in sorted(found):
        whole.update(f"{path.relative_to(_ROOT)}\0{sha256_file(path)}\n".encode())
    return whole.hexdigest()
