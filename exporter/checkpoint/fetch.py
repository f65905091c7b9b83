"""Download a checkpoint from the Hub: only the files needed, at one commit.

Weights come last, so that missing or refused files are reported before gigabytes are downloaded.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.checkpoint import companions, speechbrain
from exporter.checkpoint.files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    is_adapter,
    pickle_refused,
    weight_names,
)
from exporter.checkpoint.foreign import refuse_other_kinds
from exporter.checkpoint.speechbrain import hyperparams
from exporter.errors import CheckpointError, HubError
from exporter.families import FAMILIES, companion_names, family_facts, family_name
from exporter.formats.config_json import read_json
from exporter.hub.download import Transfer, cached_snapshot, list_repository, remote_header
from exporter.hub.errors import root_of, status_of, unavailable
from exporter.system.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.formats.tensor_io import TensorInfo

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A commit's files in the local cache; `left` are large files left on the Hub, with sizes."""

    folder: Path
    commit: str
    left: dict[str, int] = field(default_factory=dict)


def fetch(
    repo: str,
    revision: str | None,
    progress: Progress = silent,
    *,
    weights: bool = True,
    allow_pickle: bool = False,
    language: str | None = None,
) -> Fetched:
    """Download the needed files of a Hub repository into the local cache.

    If the Hub cannot be reached, a complete cached copy of the revision is used.

    Args:
        repo: `ORG/NAME`.
        revision: A branch, tag or commit; `main` if None.
        progress: Receives attempts and bytes.
        weights: Download the weights, too; else safetensors that are not cached stay on the Hub.
        allow_pickle: Download weights also where they are pickles.
        language: The language to download of a checkpoint of many; that of its files if None.

    Returns:
        The folder of the cached files, and their commit.

    Raises:
        HubError: The Hub refused, or could not be reached and no complete copy is cached.
        CheckpointError: The repository holds no usable checkpoint.
        RecipeError: It lacks the language.
    """
    wanted = revision or "main"
    cached = _cached(repo, wanted, language)
    try:
        transfer = list_repository(repo, wanted, progress, pauses=() if cached else None)
    except HubError as error:
        cause = error.__cause__ or error
        if cached is None or not unavailable(cause):
            raise
        _tell_cached(cached, repo, cause)
        return cached
    how = {"weights": weights, "allow_pickle": allow_pickle}
    return _brought(transfer, wanted, language, **how)


def _brought(
    transfer: Transfer, revision: str, language: str | None, *, weights: bool, allow_pickle: bool
) -> Fetched:
    """Download the needed files, then record in the cache which commit the revision is."""
    repo, commit, names = transfer.repo, transfer.commit, transfer.files
    where = f"{repo} at {commit[:12]}"
    if not speechbrain.is_speechbrain(names):
        refuse_other_kinds(where, names, place=repo)
    heavy = _weights(names, where, transfer.bring, allow_pickle=allow_pickle)
    present, missing = _companions(names, transfer.bring, where)
    if missing:
        msg = (
            f"{where} holds no {', '.join(missing)}.\n"
            "Download it, and add what is missing from the model that it was trained from."
        )
        raise CheckpointError(msg)
    small = [name for name in (ADAPTER, *present) if name in names]
    small += _of_language(names, transfer.bring, where, language)
    carried = _carried(names, transfer.bring)
    left = {} if weights else _left(transfer, heavy, carried)
    wanted = [*small, *(name for name in (*carried, *heavy) if name not in left)]
    transfer.announce(wanted)
    paths = [transfer.bring(name) for name in wanted]
    folder = paths[0].parent  # that of the last may be a folder inside it
    transfer.note_revision(revision)
    return Fetched(folder, commit, left)


def _weights(
    names: Collection[str], where: str, bring: Callable[[str], Path], *, allow_pickle: bool
) -> list[str]:
    """Return the weight files to read, as `weight_names` does."""
    if not speechbrain.is_speechbrain(names):
        return weight_names(names, where, bring, allow_pickle=allow_pickle)
    hyperparams.read(bring(speechbrain.MARK))  # first, so that other models are not downloaded
    heavy = [name for name in speechbrain.WEIGHTS if name in names]
    if heavy and not allow_pickle:
        raise CheckpointError(pickle_refused(f"{where}: {heavy[0]}"))
    return heavy


def _companions(
    names: Collection[str], bring: Callable[[str], Path], where: str
) -> tuple[list[str], list[str]]:
    """Return the companion files among `names`, and those that their family needs beside them.

    Without a config only that is missing. Of an adapter nothing is, since its base has the rest.
    """
    if speechbrain.is_speechbrain(names):
        return [name for name in speechbrain.SMALL if name in names], speechbrain.missing(names)
    if CONFIG not in names or is_adapter(names):
        missing = [] if is_adapter(names) else [CONFIG]
        return [name for name in companion_names() if name in names], missing
    config = read_json(bring(CONFIG))
    refuse_other_kinds(where, names, config)
    needed = family_facts(family_name(config)).COMPANIONS
    present = [name for name in needed.stored_names if name in names]
    return present, companions.missing(names, bring, needed)


def _of_language(
    names: Collection[str], bring: Callable[[str], Path], where: str, language: str | None
) -> list[str]:
    """Return the file, if any, that holds the weights of one language of a checkpoint of many."""
    if CONFIG not in names or is_adapter(names):
        return []
    family = family_name(read_json(bring(CONFIG)))
    telling = [name for name in family_facts(family).COMPANIONS.languages if name in names]
    if not telling:
        return []
    brought = [bring(name) for name in telling]
    one = FAMILIES[family].one_language(brought[0].parent, language)
    file = one.file(names, where) if one else None
    return [file] if file else []


def _carried(names: Collection[str], bring: Callable[[str], Path]) -> list[str]:
    """Return the files that artifacts carry for other loaders."""
    if CONFIG not in names or is_adapter(names) or speechbrain.is_speechbrain(names):
        return []
    return family_facts(family_name(read_json(bring(CONFIG)))).COMPANIONS.carries(names)


def _left(transfer: Transfer, names: list[str], carried: list[str]) -> dict[str, int]:
    """Return the safetensors among `names`, and `carried`, with their sizes.

    Of each there are none if all are cached. Pickles are always downloaded, because their tensors
    cannot be listed without the whole file; adapters are, because they are small.
    """
    tensors = [n for n in names if n.endswith(".safetensors") and n != ADAPTER_WEIGHTS]
    left = [
        name
        for group in (tensors, carried)
        if not all(transfer.here(name) for name in group)
        for name in group
    ]
    return {name: transfer.size(name) for name in left}


def remote_infos(repo: str, fetched: Fetched) -> "dict[str, TensorInfo]":
    """Read the headers of the weight files that stayed on the Hub.

    Returns:
        The tensors by name, in files that do not exist yet.

    Raises:
        HubError: The Hub refused, or could not be reached.
        CheckpointError: A header is damaged.
    """
    from exporter.formats.tensor_io import TensorInfo

    infos: dict[str, TensorInfo] = {}
    for name in (name for name in fetched.left if name.endswith(".safetensors")):
        header = remote_header(repo, fetched.commit, name)
        infos |= {
            tensor: TensorInfo(fetched.folder / name, of.data_offsets[0], tuple(of.shape), of.dtype)
            for tensor, of in header.tensors.items()
        }
    return infos


def _cached(repo: str, revision: str, language: str | None) -> Fetched | None:
    """Return the cached copy of a revision if it is complete, else None."""
    folder = cached_snapshot(repo, revision)
    if folder is None:
        return None
    names = {path.name for path in folder.iterdir() if path.is_file()}
    try:
        # Raises if a shard is missing.
        _weights(names, str(folder), folder.joinpath, allow_pickle=True)
        missing = _companions(names, folder.joinpath, str(folder))[1]
        if not missing:
            _of_language(names, folder.joinpath, str(folder), language)
    except CheckpointError:
        return None
    return None if missing else Fetched(folder, folder.name)


def _tell_cached(cached: Fetched, repo: str, error: BaseException) -> None:
    """Log a warning that the cached copy is used, unless the library is set to be offline."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not isinstance(error, OfflineModeIsEnabled):
        status = status_of(root_of(error))
        reason = f"HTTP {status}" if status else "no network"
        _log.warning(
            "the Hub cannot be asked (%s): using %s at %s, as cached", reason, repo, cached.commit
        )
