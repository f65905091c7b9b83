"""Choose the graphs that our sessions open, and check their external data before they do."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from exporter.errors import IntegrityError
from exporter.formats.onnx_reader import Tensor, read_tensors
from exporter.formats.protobuf import DamagedError


class Sealed(Protocol):
    """A sealed file of a manifest: its POSIX path inside the artifact, and its size."""

    @property
    def path(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


_File = TypeVar("_File", bound=Sealed)


def own_graphs(
    folder: Path, files: Iterable[_File], read: Callable[[Path, _File], bytes]
) -> dict[Path, bytes]:
    """Read an artifact's graphs, and return the content of those that our sessions open.

    The external data of each is checked. A graph whose weights others use is for other loaders and
    is not opened: those with its weights replace it.

    Args:
        folder: The artifact.
        files: Its sealed files.
        read: Reads one of them, and checks that it has the sealed bytes.

    Raises:
        IntegrityError: A graph takes its weights from elsewhere than a sealed file.
    """
    files = list(files)
    graphs = {folder / file.path: file for file in files if file.path.endswith(".onnx")}
    contents = {path: read(folder, file) for path, file in sorted(graphs.items())}
    lent: set[str] = set()
    for path, content in contents.items():
        data = require_sealed(path, content, sealed_beside(path, folder, files))
        lent |= {name.removesuffix("_data") for name in data} - {path.name}
    return {path: content for path, content in contents.items() if path.name not in lent}


def sealed_beside(path: Path, folder: Path, files: Iterable[Sealed]) -> dict[str, int]:
    """Return the sizes in bytes of the sealed files in a graph's folder, by name."""
    sealed = {folder / file.path: file.size_bytes for file in files}
    return {p.name: size for p, size in sealed.items() if p.parent == path.parent}


def require_sealed(path: Path, graph: bytes, sealed: Mapping[str, int]) -> set[str]:
    """Check that a graph's external data is inside the sealed files of its folder.

    This is needed because onnxruntime 1.31 refuses `../`, but follows a hard link, and reads
    files that the manifest does not name.

    Args:
        path: The graph's file, for messages.
        graph: What is in it.
        sealed: The files' sizes in bytes, by name.

    Returns:
        The names of the files that hold its external data.

    Raises:
        IntegrityError: A tensor's data is elsewhere.
    """
    try:
        tensors = read_tensors(graph, path.name)
    except DamagedError as error:
        msg = f"{path} is not an ONNX graph ({error}): build or fetch the artifact again"
        raise IntegrityError(msg) from error
    for tensor in tensors:
        if tensor.external and (problem := _outside(tensor, sealed)):
            msg = (
                f"{path}: the tensor {tensor.name[:80]!r} {problem}; nothing was opened.\n"
                "Build the artifact again, or fetch it from a source you trust."
            )
            raise IntegrityError(msg)
    return {dict(tensor.told)["location"] for tensor in tensors if tensor.external}


def _outside(tensor: Tensor, sealed: Mapping[str, int]) -> str | None:
    """Return the problem with the location of a tensor's data; None if there is none."""
    entries = dict(tensor.told)
    if len(entries) != len(tensor.told) or not entries.keys() <= {"location", "offset", "length"}:
        return "says where its values lie in words that we do not write"
    place = entries.get("location", "")
    if place not in sealed or "/" in place:
        return f"takes its values from {place[:80]!r}, which is no sealed file beside the graph"
    first, length = entries.get("offset", "0"), entries.get("length", "")
    if not (first.isdecimal() and length.isdecimal() and max(len(first), len(length)) < 20):
        return "has no place in its file"
    return "lies outside its file" if int(first) + int(length) > sealed[place] else None
