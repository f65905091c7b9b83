"""Download what the doctor reads of a Hub repository: configs, tokenizer and ONNX graphs.

Weights beside a graph are not downloaded; the Hub's file list has their names and sizes.
"""

from exporter.artifact.manifest import MANIFEST
from exporter.doctor.folder import Folder, listed
from exporter.errors import CheckpointError
from exporter.hub.client import require_digest
from exporter.hub.download import list_repository
from exporter.system.files import sha256_file
from exporter.system.progress import Progress

_BROUGHT = (".json", ".txt", ".onnx", ".yaml")


def brought(repo: str, revision: str | None, progress: Progress) -> Folder:
    """Download a repository's configs and graphs into huggingface_hub's cache.

    Args:
        repo: `ORG/NAME`.
        revision: Branch, tag or commit; None for main.
        progress: Receives the file and the fraction done.

    Returns:
        The folder of the snapshot; files that stayed on the Hub are in its `left`.

    Raises:
        CheckpointError: The repository holds no configs and no ONNX graphs.
        HubError: The Hub refused, or did not answer.
        IntegrityError: The repository holds another artifact than the revision names.
    """
    transfer = list_repository(repo, revision, progress)
    names = [name for name in transfer.files if name.endswith(_BROUGHT)]
    if not names:
        msg = f"{repo} holds no configs and no ONNX graphs: there is nothing to check"
        raise CheckpointError(msg)
    transfer.announce(names)
    paths = [transfer.bring(name) for name in names]
    for name, path in zip(names, paths, strict=True):
        if name == MANIFEST:
            require_digest(repo, revision, sha256_file(path))
    top = paths[0]
    for _ in names[0].split("/"):
        top = top.parent
    folder = listed(top)
    folder.left = frozenset(transfer.files.keys() - folder.files)
    folder.files |= {name: transfer.size(name) for name in folder.left}
    return folder
