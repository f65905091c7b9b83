"""A repository of the Hub for the doctor: configs, tokenizer and graphs; weights stay there.

Beside a graph its weights are not fetched: that a file is there, and long enough, the Hub's own
list tells.
"""

from exporter.doctor.folder import Folder, listed
from exporter.errors import CheckpointError
from exporter.hub.download import list_repository
from exporter.system.progress import Progress

_BROUGHT = (".json", ".txt", ".onnx", ".yaml")


def brought(repo: str, revision: str | None, progress: Progress) -> Folder:
    """Bring what is looked into, into the library's cache.

    Args:
        repo: `ORG/NAME`.
        revision: A branch, tag or commit; `main` if None.
        progress: Is told of bytes.

    Raises:
        HubError: Where the Hub refuses, or cannot be asked.
        CheckpointError: Where the repository holds nothing to look into.
    """
    transfer = list_repository(repo, revision, progress)
    names = [name for name in transfer.files if name.endswith(_BROUGHT)]
    if not names:
        msg = f"{repo} holds no configs and no ONNX graphs: nothing can be said of it"
        raise CheckpointError(msg)
    transfer.announce(names)
    paths = [transfer.bring(name) for name in names]
    top = paths[0]
    for _ in names[0].split("/"):
        top = top.parent
    folder = listed(top)
    folder.left = frozenset(transfer.files.keys() - folder.files)
    folder.files |= {name: transfer.size(name) for name in folder.left}
    return folder
