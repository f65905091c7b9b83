"""Configuration files read as data: bounded, and refused if they name code or other files."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError
from exporter.system.files import read_small

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 32
# Keys that make transformers run foreign code, at any depth: CVE-2026-5241 is a nested one.
_CODE = re.compile(
    "auto_map|trust_remote_code|custom_pipelines|custom_generate|init_inputs|use_kernels"
    "|.*(quantization|compression|kernel)_config",
    re.IGNORECASE,
)
# Their value may name a repository (CVE-2026-4372), or a package that transformers fetches.
_KERNELS = re.compile(".*(attn|attention|experts)_implementation.*", re.IGNORECASE)
_BUILT_IN = (True, "eager", "sdpa")
# Arguments of tokenizers whose paths transformers opens instead of the folder's own files.
_PATHS = frozenset({"vocab_file", "merges_file", "normalizer_file", "tokenizer_file"})


def is_regular_file(path: Path) -> bool:
    """Return True for a regular file, False for none; raise CheckpointError for anything else."""
    if path.is_file():
        return True
    if path.is_symlink() and not path.exists():
        msg = f"{path} is a link to a missing file: fetch the file again"
        raise CheckpointError(msg)
    if path.exists():
        msg = f"{path} is not a regular file: fetch the file again"
        raise CheckpointError(msg)
    return False


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 16 MiB and 32 levels.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        CheckpointError: The file is missing, not regular, too large, too deep, or not an object.
    """
    if not is_regular_file(path):
        msg = f"{path.parent}: {path.name} is missing: is this a Hugging Face checkpoint folder?"
        raise CheckpointError(msg)
    try:
        data = read_small(path, _MAX_BYTES, CheckpointError, "a configuration")
        value = json.loads(data.decode("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        msg = f"{path}: not readable as JSON ({error})"
        raise CheckpointError(msg) from error
    if not isinstance(value, dict):
        msg = f"{path}: a JSON object is expected"
        raise CheckpointError(msg)
    if any(depth > _MAX_DEPTH for depth, _, _ in _entries(value)):
        msg = f"{path}: nested more than {_MAX_DEPTH} levels deep: not a configuration"
        raise CheckpointError(msg)
    return value


def refuse_code(path: Path) -> None:
    """Raise CheckpointError for a config that makes transformers run code or open other files."""
    refuse_code_in(read_json(path), str(path))


def refuse_code_in(values: Mapping[str, Any], where: str) -> None:
    """Do the same for a config that was read; `where` is its file, for messages."""
    for _, key, value in _entries(values):
        if key is None or not value:
            continue
        foreign = _KERNELS.fullmatch(key) and not (
            isinstance(value, str | bool) and value in _BUILT_IN
        )
        if foreign or _CODE.fullmatch(key):
            msg = (
                f"{where}: `{shown(key)}` asks for code outside transformers, which is never run."
                f"\nIf the model is a plain one, remove `{shown(key)}` from the file."
            )
            raise CheckpointError(msg)
        if key in _PATHS:
            msg = f"{where}: `{key}` names a file elsewhere: remove it; the folder's own is used"
            raise CheckpointError(msg)


def shown(key: object) -> str:
    """Return a key of a file in one printable line."""
    text = str(key)[:80]
    return text if text.isprintable() else ascii(text)


def _entries(value: object) -> Iterator[tuple[int, str | None, object]]:
    """Yield every value with depth and key, without recursion, since the depth is not bounded."""
    left: list[tuple[int, str | None, object]] = [(0, None, value)]
    while left:
        depth, key, value = left.pop()
        yield depth, key, value
        if isinstance(value, dict):
            left += [(depth + 1, str(inner), below) for inner, below in value.items()]
        elif isinstance(value, list):
            left += [(depth + 1, None, below) for below in value]
