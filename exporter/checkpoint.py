"""A checkpoint: a Hugging Face folder whose tensors are read one at a time.

Everything is checked before the first tensor is used, so that a build fails here and not half-way.
Nothing is loaded as code: `config.json` is read as data and weights only from safetensors.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from exporter.artifact import Origin, sha256_file
from exporter.errors import CheckpointError
from exporter.fetch import CONFIGS, INDEX, TOKENIZER, WEIGHTS, fetch
from exporter.storage import TensorInfo, safetensors_infos

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_MAX_CONFIG_BYTES = 16 << 20


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; `tensors` come from the safetensors headers alone."""

    source: str
    revision: str | None
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def parameters(self) -> int:
        """The number of stored weights, tied ones once."""
        return sum(info.elements for info in self.tensors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of the weight files."""
        return sum(path.stat().st_size for path in self.weight_files)

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files, sorted."""
        return sorted({info.file for info in self.tensors.values()})

    @cached_property
    def sha256(self) -> str:
        """The identity of the weights and configs, whatever the folder is called."""
        names = [path.name for path in self.weight_files]
        whole = hashlib.sha256()
        for name in [*names, *self.companions]:
            whole.update(f"{name}\0{sha256_file(self.folder / name)}\n".encode())
        return whole.hexdigest()

    @property
    def companions(self) -> list[str]:
        """The configuration and tokenizer files present, which every artifact carries along."""
        return [name for name in (*CONFIGS, *TOKENIZER) if (self.folder / name).is_file()]

    @property
    def origin(self) -> Origin:
        """What a manifest says about this checkpoint."""
        return Origin(
            source=self.source,
            revision=self.revision,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            parameters=self.parameters,
        )

    def read(self, name: str) -> Tensor:
        """Read one tensor in its stored type; only its bytes leave the disk."""
        tensor = self.tensors[name].read()
        self.require_finite(name, tensor)
        return tensor

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Read a tensor's rows in order, some at a time; values are not checked."""
        return self.tensors[name].blocks()

    def require_finite(self, name: str, values: Tensor) -> None:
        """Refuse a tensor of which `values` (its own, or their peaks) are not all numbers."""
        # In pieces: the test makes copies.
        if not all(piece.isfinite().all() for piece in values.flatten().split(1 << 19)):
            file = self.tensors[name].file
            msg = f"{file}: tensor {name} holds NaN or infinity: the checkpoint is damaged"
            raise CheckpointError(msg)


def open_checkpoint(source: str, base: Path = Path()) -> Checkpoint:
    """Open a folder (relative to `base`) or a Hub id, `ORG/NAME` or `ORG/NAME@REVISION`.

    Raises CheckpointError when the folder is missing, incomplete or damaged, HubError when the
    Hub or the network does not give it.
    """
    folder, revision = base / source, None
    if not folder.is_dir():
        match = _HUB_ID.fullmatch(source)
        if match is None or source.startswith("."):
            msg = f"no checkpoint folder {folder}: give a folder, or a Hub id like ORG/NAME"
            raise CheckpointError(msg)
        folder, revision = fetch(match["repo"], match["revision"])
    config = read_json(folder / "config.json")
    _require_companions(folder)
    return Checkpoint(source, revision, folder, config, _tensor_infos(folder))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, with the checkpoint's errors."""
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            msg = f"{path}: larger than {_MAX_CONFIG_BYTES} bytes: not a configuration"
            raise CheckpointError(msg)
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path.parent}: {path.name} is missing: is this a Hugging Face checkpoint folder?"
        raise CheckpointError(msg) from None
    except (ValueError, OSError, RecursionError) as error:
        msg = f"{path}: not readable as JSON ({error})"
        raise CheckpointError(msg) from error
    if not isinstance(value, dict):
        msg = f"{path}: a JSON object is expected"
        raise CheckpointError(msg)
    return value


def _require_companions(folder: Path) -> None:
    """Refuse a folder from which no loader could make a transcript."""
    _refuse_foreign_links(folder)
    missing = [name for name in CONFIGS if not (folder / name).is_file()]
    slow = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not slow and not (folder / "tokenizer.json").is_file():
        missing.append("tokenizer.json (or vocab.json and merges.txt)")
    if missing:
        msg = (
            f"{folder}: missing {', '.join(missing)}.\n"
            "Copy them from the model this checkpoint was trained from."
        )
        raise CheckpointError(msg)


def _refuse_foreign_links(folder: Path) -> None:
    """Refuse links out of the checkpoint: what they lead to would be copied into an artifact.

    The Hub's cache links files into the `blobs` beside its snapshots, and only there.
    """
    here = folder.resolve()
    for name in (*CONFIGS, *TOKENIZER):
        target = (folder / name).resolve()
        cached = target.parent == here.parent.parent / "blobs"
        if target.exists() and target.parent != here and not cached:
            msg = f"{folder / name} is a link that leads out of the checkpoint: put the file there"
            raise CheckpointError(msg)


def _tensor_infos(folder: Path) -> dict[str, TensorInfo]:
    """Read the headers of all shards."""
    infos: dict[str, TensorInfo] = {}
    for path in _weight_paths(folder):
        infos |= safetensors_infos(path)
    return infos


def _weight_paths(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        other = [path.name for path in folder.glob("pytorch_model*.bin")]
        found = (
            f" (found {other[0]}, which is a pickle: convert it to safetensors)" if other else ""
        )
        msg = f"{folder}: no {WEIGHTS}{found}"
        raise CheckpointError(msg)
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        msg = f"{folder / INDEX}: no `weight_map`"
        raise CheckpointError(msg)
    shards = sorted(set(names.values()))
    for name in shards:
        if Path(name).name != name or not (folder / name).is_file():
            msg = f"{folder / INDEX}: names the shard {name!r}, which is not in the folder"
            raise CheckpointError(msg)
    return [folder / name for name in shards]
