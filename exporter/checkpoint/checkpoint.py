"""A checkpoint: a Hugging Face folder whose tensors are read one at a time.

Everything is checked before the first tensor is used, so that a bad checkpoint fails at the start
of a build. Nothing is loaded as code: `config.json` is read as data; weights come from safetensors
or, where there are none, from torch's own files, whose pickle only tells the tensors' offsets.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import normpath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, Unpack

from torch import Tensor

from exporter.artifact.manifest import Origin
from exporter.checkpoint import companions, foreign
from exporter.checkpoint.derived import derive, stored
from exporter.checkpoint.fetch import fetch, remote_infos
from exporter.checkpoint.files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    WHOLE,
)
from exporter.checkpoint.language import in_one_language
from exporter.checkpoint.lora import Lora, lora, merge
from exporter.checkpoint.names import canonical, without
from exporter.checkpoint.shards import tensor_infos
from exporter.checkpoint.speechbrain import folder as speechbrain_folder
from exporter.checkpoint.speechbrain import is_speechbrain
from exporter.errors import CheckpointError, HubError
from exporter.families import (
    FAMILIES,
    companion_names,
    family_facts,
    family_name,
    read_config,
)
from exporter.formats.config_json import read_json
from exporter.formats.tensor_io import BLOCK_ELEMENTS, TensorInfo
from exporter.hub.client import hub_id
from exporter.system.files import readable_name, require_utf8, sha256_file
from exporter.system.progress import Progress, silent

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, of whose weight files only the headers were read.

    Attributes:
        source: The folder or Hub id, as passed to `open_checkpoint`.
        revision: The commit on the Hub; None for a folder.
        folder: The folder of the files.
        config: What its family uses of `config.json`.
        tensors: The tensors by their names in the family's model. One that is stored in parts, or
            that an adapter changes, is computed when it is read.
        remote: Sizes in bytes of weight files, and of some of `carried`, that stayed on the Hub.
            While there are any, values cannot be read and `sha256` raises CheckpointError.
        companions: Configuration and tokenizer files by name, which every artifact includes.
        converted: The content of companions whose files have another form: see
            `exporter.checkpoint.companions`.
        carried: Files by POSIX path that every artifact includes as they are, for other loaders.
        settings: An adapter's configuration file. Its tensors and companions come in part from its
            base.
        own_names: Whether the tensors are stored under the names of the family's model.
        language: The language of a checkpoint of many, whose weights are merged.
    """

    source: str
    revision: str | None
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    remote: dict[str, int] = field(default_factory=dict)
    companions: Mapping[str, Path] = field(default_factory=dict)
    converted: Mapping[str, bytes] = field(default_factory=dict)
    carried: Mapping[str, Path] = field(default_factory=dict)
    settings: tuple[Path, ...] = ()
    own_names: bool = True
    language: str | None = None

    @property
    def name(self) -> str:
        """The Hub id, or the folder's name; no path, because manifests may be published."""
        return self.source if self.revision else readable_name(self.folder.resolve().name)

    @property
    def parameters(self) -> int:
        """The number of stored weights, tied ones once."""
        places = {(info.file, info.offset): info for info in stored(self.tensors).values()}
        return sum(info.elements for info in places.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of the weight files."""
        local = [path for path in self.weight_files if path.name not in self.remote]
        remote = [size for name, size in self.remote.items() if name not in self.carried]
        return sum(path.stat().st_size for path in local) + sum(remote)

    @property
    def carried_sizes(self) -> dict[str, int]:
        """The bytes of each of the `carried` files, by its POSIX path."""
        return {
            name: self.remote[name] if name in self.remote else path.stat().st_size
            for name, path in self.carried.items()
        }

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold tensors, sorted."""
        return sorted({file for info in self.tensors.values() for file in info.files})

    @property
    def plain(self) -> bool:
        """True if all weights are safetensors that any loader reads as they are.

        False for an adapter: transformers would apply its settings if peft is installed.
        """
        safe = all(path.suffix == ".safetensors" for path in self.weight_files)
        merged = self.language is not None or (self.folder / ADAPTER).exists()
        return safe and self.own_names and not merged

    @cached_property
    def sha256(self) -> str:
        """The digest of the weights, configs and carried files, whatever the folder's name."""
        if self.remote:
            msg = f"{self.source}: its weights are still on the Hub: they have to be fetched first"
            raise CheckpointError(msg)
        whole = hashlib.sha256()
        files = [*self.weight_files, *self.settings, *self.companions.values()]
        for path in [*files, *self.carried.values()]:
            whole.update(f"{path.name}\0{sha256_file(path)}\n".encode())
        return whole.hexdigest()

    @property
    def origin(self) -> Origin:
        """The manifest's entry for this checkpoint."""
        return Origin(
            source=self.name,
            revision=self.revision,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            parameters=self.parameters,
        )

    @contextmanager
    def gathered(self) -> Iterator[Path]:
        """Yield a folder with all companions, which may be removed when the block ends."""
        here = all(path.parent == self.folder for path in self.companions.values())
        if here and not self.converted:
            yield self.folder
            return
        with TemporaryDirectory() as place:
            folder = Path(place) / self.folder.resolve().name  # its name appears in errors
            folder.mkdir()
            self.copy_companions(folder)
            yield folder

    def copy_companions(self, folder: Path) -> None:
        """Write those companions into a folder that it does not have yet."""
        for name, path in self.companions.items():
            if (folder / name).exists():
                continue
            if name in self.converted:
                (folder / name).write_bytes(self.converted[name])
            else:
                shutil.copyfile(path, folder / name)

    def copy_carried(self, folder: Path) -> None:
        """Write the carried files into a folder."""
        for name, path in self.carried.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)

    def companion(self, name: str) -> bytes:
        """Return the content of a companion as `copy_companions` writes it."""
        return self.converted.get(name) or self.companions[name].read_bytes()

    def read(self, name: str) -> Tensor:
        """Read one tensor in its stored type, and nothing else of its file.

        Raises:
            CheckpointError: The file is truncated, or a value is not finite.
        """
        tensor = self.tensors[name].read()
        self.require_finite(name, tensor)
        return tensor

    def stored_state(self) -> dict[str, Tensor]:
        """Read all weights by the names that transformers' own class expects."""
        state = {name: info.read() for name, info in stored(self.tensors).items()}
        for name, tensor in state.items():
            self.require_finite(name, tensor)
        return state

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Read a tensor's rows in order, some at a time; values are not checked."""
        return self.tensors[name].blocks()

    def require_finite(self, name: str, values: Tensor) -> None:
        """Raise CheckpointError if any of a tensor's values, or of their maxima, is not finite."""
        # In pieces, because the test makes copies.
        if not all(piece.isfinite().all() for piece in values.flatten().split(BLOCK_ELEMENTS)):
            files = " with ".join(map(str, self.tensors[name].files))
            msg = f"{files}: tensor {name} holds NaN or infinity: the checkpoint is damaged"
            raise CheckpointError(msg)


class _Told(TypedDict):
    allow_pickle: bool
    language: str | None


class _How(_Told):
    weights: bool


def open_checkpoint(
    source: str,
    base: Path = Path(),
    progress: Progress = silent,
    *,
    weights: bool = True,
    allow_pickle: bool = False,
    language: str | None = None,
) -> Checkpoint:
    """Open a checkpoint's folder or Hub id, and read the headers of its weights.

    An adapter without full weights is opened together with the base that it names.

    Args:
        source: A folder, or `ORG/NAME` or `ORG/NAME@REVISION` on the Hub.
        base: The folder that a relative `source` starts from.
        progress: Receives attempts and bytes of a download.
        weights: Download weights that are not on this machine; else they are in `remote`.
        allow_pickle: Read torch's own files where there are no safetensors: see
            `exporter.formats.torch_pickle`.
        language: The language of a checkpoint of many; None: the one that its files name. Others
            ignore it.

    Returns:
        The checkpoint, whose values are read on demand.

    Raises:
        CheckpointError: The folder is missing, incomplete or damaged, or of an unknown family.
        HubError: The Hub refused, or could not be reached.
        RecipeError: It is of many languages, and lacks the one.
    """
    how = _How(weights=weights, allow_pickle=allow_pickle, language=language)
    told: _Told = {"allow_pickle": allow_pickle, "language": language}
    require_utf8(base / source, CheckpointError)
    if _is_adapter(base / source):
        return _open_adapter(source, base / source, progress, **how)
    if (base / source).is_dir():
        return _merged(_open(source, None, base / source, **told))
    if (base / source).is_file():
        foreign.refuse_file(base / source)
    named = hub_id(source)
    looked = normpath((base / source).absolute())
    if named is None:
        msg = f"there is no checkpoint folder {looked}: give a folder, or a Hub id like ORG/NAME"
        raise CheckpointError(msg)
    repo, revision = named
    try:
        fetched = fetch(repo, revision, progress, **how)
    except HubError as error:
        first, *rest = str(error).splitlines()
        first = f"{first.removesuffix('.')}; nor is there a folder {looked}."
        raise HubError("\n".join([first, *rest])) from error.__cause__
    if not fetched.left and _is_adapter(fetched.folder):
        opened = _open_adapter(source, fetched.folder, progress, **how)
        return replace(opened, revision=fetched.commit)
    tensors = remote_infos(repo, fetched)
    return _merged(
        _open(
            source,
            fetched.commit,
            fetched.folder,
            tensors,
            fetched.left,
            **told,
        )
    )


def _open(
    source: str,
    revision: str | None,
    folder: Path,
    tensors: dict[str, TensorInfo] | None = None,
    remote: dict[str, int] | None = None,
    *,
    allow_pickle: bool,
    language: str | None,
) -> Checkpoint:
    names = foreign.listed(folder)
    if is_speechbrain(names):
        return _open_speechbrain(source, revision, folder, allow_pickle=allow_pickle)
    foreign.refuse_other_kinds(str(folder), names)
    raw = read_json(folder / CONFIG)
    foreign.refuse_other_kinds(str(folder), names, raw)
    name = family_name(raw)  # first, so that an unknown family is the first error
    needed = family_facts(name).COMPANIONS
    found = companions.require(folder, needed)
    config = read_config(folder / CONFIG, name)
    family = FAMILIES[name]
    tensors = tensors or tensor_infos(folder, allow_pickle=allow_pickle)
    named = canonical(tensors, family.prefix(config), family.BARE)
    own_names = named.keys() == tensors.keys()
    left = needed.carries(remote or {})
    tensors = derive(without(named, family.UNUSED), family.derived(config))
    if config.get("tie_word_embeddings", True):  # transformers ignores a stored copy, too
        tensors = {n: i for n, i in tensors.items() if family.TIED.get(n) not in tensors}
    opened = Checkpoint(
        source=source,
        revision=revision,
        folder=folder,
        config=config,
        tensors=tensors,
        remote=remote or {},
        companions=found,
        converted=companions.converted(found, needed),
        carried=companions.carried(folder, needed) | {name: folder / name for name in left},
        own_names=own_names,
    )
    return in_one_language(opened, family, language, allow_pickle=allow_pickle)


def _open_speechbrain(
    source: str, revision: str | None, folder: Path, *, allow_pickle: bool
) -> Checkpoint:
    """Open a folder of SpeechBrain, whose files artifacts have in another form."""
    found = speechbrain_folder.opened(folder, allow_pickle=allow_pickle)
    family = FAMILIES[family_name(found.config)]
    return Checkpoint(
        source=source,
        revision=revision,
        folder=folder,
        config=found.config,
        tensors=derive(without(found.tensors, family.UNUSED), family.derived(found.config)),
        companions=found.companions,
        converted=found.converted,
        own_names=False,
    )


def _is_adapter(folder: Path) -> bool:
    present = any((folder / name).is_file() for name in WHOLE)
    return (folder / ADAPTER).is_file() and not present


def _merged(opened: Checkpoint) -> Checkpoint:
    """Merge an adapter that lies beside whole weights into them.

    transformers with peft loads such a folder with its adapter, and without peft ignores it.
    """
    path = opened.folder / ADAPTER
    if not path.is_file() or not (opened.folder / ADAPTER_WEIGHTS).is_file():
        return opened
    settings, family = lora(path, read_json(path)), FAMILIES[family_name(opened.config)]
    tied = {*family.TIED, *family.TIED.values()}
    tensors = merge(opened.folder, settings, opened.tensors, tied)
    return replace(opened, tensors=tensors, settings=(path,))


def warn_of_adapter(opened: Checkpoint) -> None:
    """Log a warning if an adapter lies beside a checkpoint's whole weights."""
    path = opened.folder / ADAPTER
    if not path.is_file() or _is_adapter(opened.folder):
        return
    if opened.settings:
        _log.warning(
            "%s: the adapter is merged into the weights beside it, as transformers with peft does; "
            "if they contain it already, remove that file",
            path,
        )
    else:
        _log.warning("%s is ignored: there is no %s beside it", path, ADAPTER_WEIGHTS)


def _open_adapter(source: str, folder: Path, progress: Progress, **how: Unpack[_How]) -> Checkpoint:
    """Open an adapter's base and merge the adapter into it."""
    companions.refuse_foreign(folder, companion_names())
    path = folder / ADAPTER
    settings = lora(path, read_json(path))
    base = _open_base(path, settings, progress, **how)
    name = family_name(base.config)
    tied, needed = FAMILIES[name].TIED, family_facts(name).COMPANIONS
    found = companions.overlaid(needed, companions.present(folder, needed), base.companions)
    tensors = merge(folder, settings, base.tensors, {*tied, *tied.values()})
    return replace(
        base,
        source=source,
        revision=None,
        folder=folder,
        tensors=tensors,
        companions=found,
        converted=companions.converted(found, needed),
        settings=(path,),
    )


def _open_base(path: Path, settings: Lora, progress: Progress, **how: Unpack[_How]) -> Checkpoint:
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
