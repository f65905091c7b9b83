"""Bringing a checkpoint's files from the Hub: only those that are needed, at one commit.

huggingface_hub transfers and keeps the cache; its environment variables (HF_TOKEN, HF_ENDPOINT,
HF_HOME, HF_HUB_OFFLINE) are the settings, and there are none beside. Files come one after the
other, weights last, so that what is missing or not allowed is told before gigabytes move.
"""

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import CheckpointError, exhausted
from exporter.hub.client import limited
from exporter.hub.download import Transfer, local
from exporter.hub.errors import explained, root_of, status_of, unavailable
from exporter.system.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.formats.storage import TensorInfo

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "normalizer.json"),
)

_WHOLE = (WEIGHTS, INDEX, PICKLE, PICKLE_INDEX)
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A commit's files in the local cache; `left` are weight files left on the Hub, with sizes."""

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
) -> Fetched:
    """Bring a Hub repository's needed files into the local cache, at a commit that is recorded.

    Where the Hub cannot be asked, what is cached of the revision is used, if it is whole. With
    `weights` False, safetensors that are not cached stay where they are. Pickles come only with
    `allow_pickle`. Raises HubError, and CheckpointError where the repository holds no usable
    checkpoint.
    """
    from huggingface_hub.errors import HFValidationError

    asked = revision or "main"
    with limited():
        try:
            transfer = listed(repo, asked, progress)
        except (OSError, HFValidationError) as error:
            if exhausted(error) or local(error):
                raise
            if unavailable(error):
                return _cached(repo, asked, error)
            raise explained(error, repo, asked) from error
        try:
            return _brought(transfer, asked, weights=weights, allow_pickle=allow_pickle)
        except OSError as error:
            if exhausted(error) or local(error):
                raise
            raise explained(error, repo, asked) from error


def listed(repo: str, asked: str, progress: Progress) -> Transfer:
    """Ask the Hub which commit a revision is, and what files it holds."""
    from huggingface_hub import HfApi, constants

    info = HfApi().model_info(
        repo, revision=asked, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    files = {file.rfilename: file for file in info.siblings or ()}
    return Transfer(repo, info.sha or asked, files, progress)


def _brought(transfer: Transfer, asked: str, *, weights: bool, allow_pickle: bool) -> Fetched:
    """Bring the needed files, then note in the cache which commit the revision stands for."""
    from huggingface_hub import hf_hub_download

    repo, commit, names = transfer.repo, transfer.commit, transfer.files
    where = f"{repo} at {commit[:12]}"
    heavy = weight_names(names, where, transfer.bring, allow_pickle=allow_pickle)
    if missing := missing_companions(names):
        msg = (
            f"{where} holds no {', '.join(missing)}.\n"
            "Download it, and add them from the model that it was trained from."
        )
        raise CheckpointError(msg)
    small = [name for name in (ADAPTER, *CONFIGS, *TOKENIZER) if name in names]
    left = {} if weights else _left(transfer, heavy)
    wanted = [*small, *(name for name in heavy if name not in left)]
    transfer.announce(wanted)
    folder = [transfer.bring(name) for name in wanted][-1].parent
    hf_hub_download(repo, small[0], revision=asked)
    return Fetched(folder, commit, left)


def _left(transfer: Transfer, names: list[str]) -> dict[str, int]:
    """The safetensors among `names`, with sizes, unless all are here already.

    A pickle is not left: it tells its tensors only as a whole. Nor is an adapter, which is small.
    """
    tensors = [n for n in names if n.endswith(".safetensors") and n != ADAPTER_WEIGHTS]
    if all(transfer.here(name) for name in tensors):
        return {}
    return {name: transfer.size(name) for name in tensors}


def remote_infos(repo: str, fetched: Fetched) -> "dict[str, TensorInfo]":
    """Read the headers of the files left on the Hub; places are where values would be if fetched.

    Raises HubError, and CheckpointError where a header is damaged.
    """
    if not fetched.left:
        return {}
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    from exporter.formats.storage import TensorInfo

    infos: dict[str, TensorInfo] = {}
    for name in fetched.left:
        try:
            with limited():
                header = HfApi().parse_safetensors_file_metadata(
                    repo, name, revision=fetched.commit
                )
        except SafetensorsParsingError as error:
            msg = f"{repo}: the header of {name} makes no sense: it is damaged"
            raise CheckpointError(msg) from error
        except OSError as error:
            raise explained(error, repo, fetched.commit) from error
        infos |= {
            tensor: TensorInfo(fetched.folder / name, of.data_offsets[0], tuple(of.shape), of.dtype)
            for tensor, of in header.tensors.items()
        }
    return infos


def missing_companions(names: Collection[str]) -> list[str]:
    """Which files besides weights are lacking for a transcript; an adapter's base has them."""
    if _is_adapter(names):
        return []
    missing = [name for name in CONFIGS if name not in names]
    slow = {"vocab.json", "merges.txt"} <= set(names)
    if not slow and "tokenizer.json" not in names:
        missing.append("tokenizer.json (or vocab.json and merges.txt)")
    return missing


def _is_adapter(names: Collection[str]) -> bool:
    return {ADAPTER, ADAPTER_WEIGHTS} <= set(names) and not any(name in names for name in _WHOLE)


def weight_names(
    names: Collection[str],
    where: str,
    bring: Callable[[str], Path],
    *,
    allow_pickle: bool = False,
) -> list[str]:
    """The weight files to take: safetensors if there are any, one copy, an index before its shards.

    Raises CheckpointError, naming `where`, when there are none, some are missing, or they are
    pickles and nobody allowed those.
    """
    if _is_adapter(names):
        return [ADAPTER_WEIGHTS]
    chosen = next((name for name in _WHOLE if name in names), None)
    if chosen is None:
        others = sorted(name for name in names if name.endswith(_WEIGHT_SUFFIXES))[:3]
        found = f" (found {', '.join(others)})" if others else ""
        msg = f"{where}: no {WEIGHTS}{found}.\nTake a repository of whole transformers weights."
        raise CheckpointError(msg)
    if chosen in (PICKLE, PICKLE_INDEX) and not allow_pickle:
        raise CheckpointError(pickle_refused(f"{where}: {chosen}"))
    if chosen not in (INDEX, PICKLE_INDEX):
        return [chosen]
    shards = _shards(bring(chosen))
    absent = [name for name in shards if name not in names or "/" in name]
    if not shards or absent:
        msg = (
            f"{where}: {chosen} names {', '.join(absent[:3]) or 'no files'}, which it does not hold"
        )
        raise CheckpointError(msg)
    return [chosen, *shards]


def pickle_refused(where: str) -> str:
    """What to do where there are no safetensors."""
    return (
        f"{where} is a pickle, and those are read only if you allow it: say `allow_pickle: true` "
        "in the recipe\n(build --set allow_pickle=true; inspect --allow-pickle), "
        "or take safetensors. Nothing in it is run, even so."
    )


def _shards(index: Path) -> list[str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({str(name) for name in names})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{index}: no `weight_map` ({type(error).__name__})"
        raise CheckpointError(msg) from error


def _cached(repo: str, asked: str, error: BaseException) -> Fetched:
    """What the cache holds of a revision, whole or not at all."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = Path(snapshot_download(repo, revision=asked, local_files_only=True))
    except LocalEntryNotFoundError:
        raise explained(error, repo, asked) from error
    names = {path.name for path in folder.iterdir() if path.is_file()}
    try:
        weight_names(names, str(folder), folder.joinpath, allow_pickle=True)  # whole, or not
    except CheckpointError as partial:
        raise explained(error, repo, asked) from partial
    if missing_companions(names):
        raise explained(error, repo, asked) from error
    if not isinstance(error, OfflineModeIsEnabled):
        reason = f"HTTP {status_of(root_of(error))}" if status_of(root_of(error)) else "no network"
        _log.warning(
            "the Hub cannot be asked (%s): using %s at %s, as cached", reason, repo, folder.name
        )
    return Fetched(folder, folder.name)
