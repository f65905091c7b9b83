"""Read the headers of safetensors files, checked by the library, without torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from exporter.errors import CheckpointError

# The library allows 100 MB, a gigabyte as Python objects; whisper-large-v3's have 0.15 MB.
_MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True)
class Entry:
    """A tensor's type as the format names it, its shape, and the offsets of its begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """Read a safetensors file's header.

    Args:
        path: The file.

    Returns:
        The tensors by name, with offsets from the start of the file.

    Raises:
        CheckpointError: The file is damaged, truncated, or has a header of more than 16 MiB.
    """
    try:
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > _MAX_HEADER_BYTES:
                msg = f"{path}: a header of more than {_MAX_HEADER_BYTES} bytes: damaged or hostile"
                raise CheckpointError(msg)
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        msg = f"{path}: damaged or truncated at {size} bytes ({error}): fetch it again"
        raise CheckpointError(msg) from error
    start = 8 + length
    return {
        name: Entry(of["dtype"], tuple(of["shape"]), *(start + end for end in of["data_offsets"]))
        for name, of in header.items()
        if name != "__metadata__"
    }
