"""A model's folder read as data: its files, configs, graphs and the headers of its weights.

A file that cannot be read, or must not be opened, is a finding. Only regular files are opened: a
pipe would block, and a link may lead anywhere.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from exporter.checkpoint.files import ADAPTER, INDEX, PICKLE_INDEX
from exporter.doctor.finding import Finding
from exporter.errors import CheckpointError
from exporter.families import companion_names
from exporter.formats.config_json import read_json
from exporter.formats.onnx_reader import Model, Place, read_model
from exporter.formats.protobuf import Budget, DamagedError
from exporter.formats.safetensors_header import Entry, read_header

_EXTRACTOR, _PROCESSOR = "preprocessor_config.json", "processor_config.json"
# Configs of other tools; those of our families are added from `companion_names`.
_CONFIGS = frozenset(
    (
        *(INDEX, PICKLE_INDEX, ADAPTER, _PROCESSOR, "ort_config.json"),
        *("genai_config.json", "audio_processor_config.json"),
    )
)
_MAX_FILES = 4096
_MAX_TENSORS = 200_000
_MAX_DEPTH = 4
_AGAIN = "Download it again, or export the model again."
_TAKE_OUT = "Replace it by the file itself, or delete it."


@dataclass
class Folder:
    """The content of a folder.

    Attributes:
        path: The folder.
        files: Sizes in bytes by name, relative to the folder.
        left: Files that stayed on the Hub, so that only name and size are known.
        unread: Findings about files that could not be read; reading adds to them.
    """

    path: Path
    files: dict[str, int] = field(default_factory=dict)
    left: frozenset[str] = frozenset()
    unread: list[Finding] = field(default_factory=list)

    @property
    def here(self) -> list[str]:
        """The files that can be read, sorted."""
        return sorted(self.files.keys() - self.left)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The known JSON configs at the folder's top, by file name."""
        by_name = {}
        known = _CONFIGS.union(companion_names())
        for name in self.here:
            if name in known and name.endswith(".json"):
                try:
                    by_name[name] = read_json(self.path / name)
                except CheckpointError as error:
                    self._unread(name, str(error))
        return by_name

    @cached_property
    def models(self) -> dict[str, Model]:
        """The ONNX graphs, by file name."""
        by_name: dict[str, Model] = {}
        budget = Budget()
        for name in self.here:
            if name.endswith(".onnx"):
                try:
                    by_name[name] = read_model(self.path / name, name, budget)
                except (DamagedError, OSError) as error:
                    size = self.files[name]
                    self._unread(name, f"not an ONNX graph, or cut off at {size} bytes: {error}")
        return by_name

    @cached_property
    def tensors(self) -> dict[str, dict[str, Entry]]:
        """The headers of safetensors files, by file name."""
        by_name: dict[str, dict[str, Entry]] = {}
        for name in self.here:
            if name.endswith(".safetensors"):
                try:
                    if sum(len(tensors) for tensors in by_name.values()) > _MAX_TENSORS:
                        msg = f"more than {_MAX_TENSORS} tensors in the folder: not checked"
                        raise CheckpointError(msg)
                    by_name[name] = read_header(self.path / name)
                except CheckpointError as error:
                    self._unread(name, str(error))
        return by_name

    def holds(self, place: Place) -> bool:
        """Return True if the bytes of a place can be read: downloaded, and within the file."""
        here = place.file in self.files and place.file not in self.left
        return here and place.offset + place.length <= self.files[place.file]

    def config(self, name: str = "config.json") -> Mapping[str, Any]:
        """Return a config at the folder's top; empty if it is missing or unreadable.

        The feature extractor's may be inside the processor's, as transformers 5 writes it.
        """
        if name == _EXTRACTOR and name not in self.configs:
            inner = self.configs.get(_PROCESSOR, {}).get("feature_extractor")
            return inner if isinstance(inner, dict) else {}
        return self.configs.get(name, {})

    def number(self, config: str, key: str) -> int | None:
        """Return an integer of a config, or None."""
        value = self.config(config).get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def matching(self, *suffixes: str) -> list[str]:
        """Return the files whose names end with one of `suffixes`, sorted."""
        return sorted(name for name in self.files if name.endswith(suffixes))

    def _unread(self, name: str, message: str) -> None:
        what = message.removeprefix(f"{self.path / name}: ").splitlines()[0]
        self.unread.append(Finding("problem", name, what, _AGAIN))


def listed(path: Path) -> Folder:
    """List a folder's files.

    Links out of the folder, pipes and the like become findings in `unread`. At most 4096 entries
    and 4 levels are listed.
    """
    folder = Folder(path)
    for count, (name, entry) in enumerate(_entries(path)):
        if count == _MAX_FILES:
            what = f"more than {_MAX_FILES} files and folders: the others were not checked"
            folder.unread.append(Finding("warning", ".", what, "Name the model's own folder."))
            break
        if name.endswith("/"):
            continue
        try:
            wrong = _foreign(path, entry)
            size = entry.stat().st_size
        except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
            wrong, size = f"cannot be read ({error})", 0
        if wrong:
            folder.unread.append(Finding("problem", name, wrong, _TAKE_OUT))
        else:
            folder.files[name] = size
    return folder


def _entries(path: Path, above: str = "", depth: int = 0) -> Iterator[tuple[str, Path]]:
    """Yield all entries by their names relative to the top; those of folders end in a slash."""
    with os.scandir(path) as scanned:
        entries = sorted(islice(scanned, _MAX_FILES), key=lambda entry: entry.name)
    for entry in entries:
        name = above + entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield name, Path(entry.path)
            continue
        yield f"{name}/", Path(entry.path)
        if depth < _MAX_DEPTH and not entry.name.startswith(".") and os.access(entry, os.R_OK):
            yield from _entries(Path(entry.path), f"{name}/", depth + 1)


def _foreign(folder: Path, entry: Path) -> str | None:
    """Return why an entry is not opened, or None; the Hub's cache may link into its `blobs`."""
    here, target = folder.resolve(), entry.resolve()
    cached = here.parent.parent / "blobs"
    if entry.is_symlink() and not (target.is_relative_to(here) or target.parent == cached):
        return "links out of the folder"
    if not target.exists():
        return "links to a missing file"
    return None if stat.S_ISREG(target.stat().st_mode) else "is not a regular file"
