"""A checkpoint: a Hugging Face folder whose tensors are read one at a time.

Everything is checked before the first tensor is used, so that a build fails here and not half-way.
Nothing is loaded as code: `config.json` is read as data, weights from safetensors or, where there
are none, from torch's own files, of which only the places of tensors are taken.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from exporter.artifact.manifest import Origin
from exporter.checkpoint.derived import derive, stored
from exporter.checkpoint.fetch import fetch, remote_infos
from exporter.checkpoint.files import (
    ADAPTER,
    CONFIG,
    INDEX,
    PICKLE,
    PICKLE_INDEX,
    WEIGHTS,
)
from exporter.checkpoint.lora import Lora, lora, merge
from exporter.checkpoint.shards import tensor_infos
from exporter.errors import CheckpointError, HubError
from exporter.families import FAMILIES, companion_names, family_facts, family_name
from exporter.families.facts import Companions
from exporter.formats.config_json import is_regular_file, read_json, refuse_code
from exporter.formats.tensor_io import BLOCK_ELEMENTS, TensorInfo
from exporter.hub.client import hub_id
from exporter.system.files import sha256_file
from exporter.system.progress import Progress, silent


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; `tensors` come from the headers of the weight files alone.

    They have the names that the family's model gives them: one that is stored in parts, or that an
    adapter changes, is computed when it is read.
    `companions` are the configuration and tokenizer files by name, which every artifact carries
    along. An adapter has `settings`, and its tensors and companions come in part from its base.
    `remote` are weight files that stayed on the Hub, with their sizes; while there are any, values
    cannot be read and the checkpoint has no `sha256`.
    """

    source: str
    revision: str | None
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    remote: dict[str, int] = field(default_factory=dict)
    companions: Mapping[str, Path] = field(default_factory=dict)
    settings: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The Hub id, or the folder's name without its path: what may be published."""
        return self.source if self.revision else self.folder.resolve().name

    @property
    def parameters(self) -> int:
        """The number of stored weights, tied ones once."""
        places = {(info.file, info.offset): info for info in stored(self.tensors).values()}
        return sum(info.elements for info in places.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of the weight files."""
        local = [path for path in self.weight_files if path.name not in self.remote]
        return sum(path.stat().st_size for path in local) + sum(self.remote.values())

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold tensors, sorted."""
        return sorted({file for info in self.tensors.values() for file in info.files})

    @property
    def plain(self) -> bool:
        """Whether all weights are safetensors that hold them as they are, for any loader.

        Beside an adapter's settings they are not: transformers would follow those if peft is there.
        """
        safe = all(path.suffix == ".safetensors" for path in self.weight_files)
        return safe and not (self.folder / ADAPTER).exists()

    @cached_property
    def sha256(self) -> str:
        """The identity of the weights and configs, whatever the folder is called."""
        if self.remote:
            msg = f"{self.source}: its weights are still on the Hub: they have to be fetched first"
            raise CheckpointError(msg)
        whole = hashlib.sha256()
        for path in [*self.weight_files, *self.settings, *self.companions.values()]:
            whole.update(f"{path.name}\0{sha256_file(path)}\n".encode())
        return whole.hexdigest()

    @property
    def origin(self) -> Origin:
        """What a manifest says about this checkpoint."""
        return Origin(
            source=self.name,
            revision=self.revision,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            parameters=self.parameters,
        )

    @contextmanager
    def gathered(self) -> Iterator[Path]:
        """A folder with all companions, for loaders that want one: read it before it goes away."""
        if all(path.parent == self.folder for path in self.companions.values()):
            yield self.folder
            return
        with TemporaryDirectory() as place:
            folder = Path(place) / self.folder.resolve().name  # errors name it
            folder.mkdir()
            for name, path in self.companions.items():
                shutil.copyfile(path, folder / name)
            yield folder

    def read(self, name: str) -> Tensor:
        """Read one tensor in its stored type; only its bytes leave the disk."""
        tensor = self.tensors[name].read()
        self.require_finite(name, tensor)
        return tensor

    def stored_state(self) -> dict[str, Tensor]:
        """Read all weights under the names that transformers' own class looks for."""
        state = {name: info.read() for name, info in stored(self.tensors).items()}
        for name, tensor in state.items():
            self.require_finite(name, tensor)
        return state

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Read a tensor's rows in order, some at a time; values are not checked."""
        return self.tensors[name].blocks()

    def require_finite(self, name: str, values: Tensor) -> None:
        """Refuse a tensor of which `values` (its own, or their peaks) are not all numbers."""
        # In pieces: the test makes copies.
        if not all(piece.isfinite().all() for piece in values.flatten().split(BLOCK_ELEMENTS)):
            files = " with ".join(map(str, self.tensors[name].files))
            msg = f"{files}: tensor {name} holds NaN or infinity: the checkpoint is damaged"
            raise CheckpointError(msg)


def open_checkpoint(
    source: str,
    base: Path = Path(),
    progress: Progress = silent,
    *,
    weights: bool = True,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Open a folder (relative to `base`) or a Hub id, `ORG/NAME` or `ORG/NAME@REVISION`.

    A folder with an adapter and no whole weights is opened together with the base that it names.
    With `weights` False, weights that are not on this machine stay on the Hub: see `remote`. Files
    of torch's own are read, as `pickled` tells, only with `allow_pickle`. Raises CheckpointError
    when the folder is missing, incomplete or damaged, HubError when the Hub or the network does not
    give it.
    """
    how: dict[str, bool] = {"weights": weights, "allow_pickle": allow_pickle}
    if _is_adapter(base / source):
        return _open_adapter(source, base / source, progress, **how)
    if (base / source).is_dir():
        return _open(source, None, base / source, allow_pickle=allow_pickle)
    named = hub_id(source)
    if named is None:
        msg = f"no checkpoint folder {base / source}: give a folder, or a Hub id like ORG/NAME"
        raise CheckpointError(msg)
    repo, revision = named
    fetched = fetch(repo, revision, progress, **how)
    if not fetched.left and _is_adapter(fetched.folder):
        opened = _open_adapter(source, fetched.folder, progress, **how)
        return replace(opened, revision=fetched.commit)
    tensors = remote_infos(repo, fetched)
    return _open(
        source,
        fetched.commit,
        fetched.folder,
        tensors,
        fetched.left,
        allow_pickle=allow_pickle,
    )


def _open(
    source: str,
    revision: str | None,
    folder: Path,
    tensors: dict[str, TensorInfo] | None = None,
    remote: dict[str, int] | None = None,
    *,
    allow_pickle: bool,
) -> Checkpoint:
    config = read_json(folder / CONFIG)
    name = family_name(config)  # an unknown family is told before all else
    companions = _require_companions(folder, family_facts(name).COMPANIONS)
    family = FAMILIES[name]
    tensors = tensors or tensor_infos(folder, allow_pickle=allow_pickle)
    tensors = derive(tensors, family.derived(config))
    if config.get("tie_word_embeddings", True):  # then transformers does not look at a copy either
        tensors = {n: i for n, i in tensors.items() if family.TIED.get(n) not in tensors}
    return Checkpoint(
        source=source,
        revision=revision,
        folder=folder,
        config=config,
        tensors=tensors,
        remote=remote or {},
        companions=companions,
    )


def _is_adapter(folder: Path) -> bool:
    whole = (WEIGHTS, INDEX, PICKLE, PICKLE_INDEX)
    present = any((folder / name).is_file() for name in whole)
    return (folder / ADAPTER).is_file() and not present


def _open_adapter(source: str, folder: Path, progress: Progress, **how: bool) -> Checkpoint:
    """Open an adapter's base and put the adapter over it."""
    _refuse_foreign(folder, companion_names())
    path = folder / ADAPTER
    settings = lora(path, read_json(path))
    base = _open_base(path, settings, progress, **how)
    name = family_name(base.config)
    tied, companions = FAMILIES[name].TIED, family_facts(name).COMPANIONS
    tensors = merge(folder, settings, base.tensors, {*tied, *tied.values()})
    return replace(
        base,
        source=source,
        revision=None,
        folder=folder,
        tensors=tensors,
        companions=_over(companions, _present(folder, companions), base.companions),
        settings=(path,),
    )


def _over(
    companions: Companions, own: Mapping[str, Path], base: Mapping[str, Path]
) -> dict[str, Path]:
    """An adapter's companions, and the base's where it has none.

    A tokenizer's files belong together: all are the adapter's, if those are whole, or the base's.
    """
    tokenizer = base if companions.missing({*own, *companions.configs}) else own
    configs = {**base, **own, CONFIG: base[CONFIG]}
    return {name: configs[name] for name in companions.configs} | {
        name: path for name, path in tokenizer.items() if name in companions.tokenizer
    }


def _open_base(path: Path, settings: Lora, progress: Progress, **how: bool) -> Checkpoint:
    """Open the checkpoint that the adapter settings at `path` name."""
    name = settings.base_model_name_or_path
    folder = path.parent / name
    try:
        if _is_adapter(folder):
            msg = f"{folder} is an adapter too"
            raise CheckpointError(msg)
        source = name if folder.is_dir() else settings.base
        return open_checkpoint(source, path.parent, progress, **how)
    except (CheckpointError, HubError) as error:
        msg = (
            f"{path}: its base {name!r} cannot be used: {str(error).splitlines()[0]}\n"
            "Set base_model_name_or_path there to the base's folder, or to its Hub id."
        )
        raise type(error)(msg) from error


def _require_companions(folder: Path, companions: Companions) -> dict[str, Path]:
    """The companions in a folder; refuse one from which no loader could make a transcript."""
    _refuse_foreign(folder, companions.names)
    present = _present(folder, companions)
    if missing := companions.missing(present):
        msg = (
            f"{folder}: missing {', '.join(missing)}.\n"
            "Copy them from the model this checkpoint was trained from."
        )
        raise CheckpointError(msg)
    return present


def _present(folder: Path, companions: Companions) -> dict[str, Path]:
    paths = {name: folder / name for name in companions.names}
    return {name: path for name, path in paths.items() if path.is_file()}


def _refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Refuse code, and links out of the checkpoint: what they lead to would be in an artifact.

    The Hub's cache links files into the `blobs` beside its snapshots, and only there.
    """
    here = folder.resolve()
    for path in (folder / name for name in names):
        if not is_regular_file(path):
            continue
        target = path.resolve()
        cached = target.parent == here.parent.parent / "blobs"
        if target.parent != here and not cached:
            msg = f"{path} is a link that leads out of the checkpoint: put the file there"
            raise CheckpointError(msg)
        if path.name.endswith("config.json"):
            refuse_code(path)
        elif path.suffix == ".json":
            read_json(path)  # some are only carried along, for others' loaders
