"""Download a checkpoint from the Hub: only the files needed, at one commit.

huggingface_hub transfers and keeps the cache; its environment variables (HF_TOKEN, HF_ENDPOINT,
HF_HOME, HF_HUB_OFFLINE) are the settings, and there are none beside. Files come one after the
other, weights last, so that what is missing or not allowed is told before gigabytes move.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.checkpoint.files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIGS,
    TOKENIZER,
    missing_companions,
    weight_names,
)
from exporter.errors import CheckpointError, exhausted
from exporter.hub.client import request_timeouts
from exporter.hub.download import Transfer, listed, local
from exporter.hub.errors import explained, root_of, status_of, unavailable
from exporter.system.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.formats.tensor_io import TensorInfo


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
    with request_timeouts():
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

    from exporter.formats.tensor_io import TensorInfo

    infos: dict[str, TensorInfo] = {}
    for name in fetched.left:
        try:
            with request_timeouts():
                header = HfApi().parse_safetensors_file_metadata(
                    repo, name, revision=fetched.commit
                )
        except SafetensorsParsingError as error:
            msg = f"{repo}: the header of {name} is damaged"
            raise CheckpointError(msg) from error
        except OSError as error:
            raise explained(error, repo, fetched.commit) from error
        infos |= {
            tensor: TensorInfo(fetched.folder / name, of.data_offsets[0], tuple(of.shape), of.dtype)
            for tensor, of in header.tensors.items()
        }
    return infos


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
