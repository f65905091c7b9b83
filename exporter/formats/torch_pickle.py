"""Find tensors in torch's weight files, `pytorch_model.bin`, without loading them.

Such a file is a zip archive: a pickle that describes the tensors, and beside it one uncompressed
record per storage. The pickle's opcodes are searched for names first; then it is read with
`weights_only` onto `meta`, so that nothing is executed and no values are loaded. Its offsets are
compared with the archive's directory.
"""

import pickle
import pickletools
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from exporter.errors import CheckpointError, exhausted
from exporter.formats.tensor_io import NAMES, TensorInfo

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # torch.save before version 1.6
# What torch's restricted unpickler and its zip reader raise on damaged bytes.
_DAMAGED = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(EOFError, OSError, BadZipFile),
)
# The names that plain tensors need. torch allows more: sparse tensors, whose indices it has read
# out of bounds, and bytearray, which may allocate all memory.
_NAMED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage"
)
_OTHER_NAMES = frozenset({"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_MAX_PICKLE_BYTES = 16 << 20
# Not by transformers: release 5 neither saves tensors with gaps nor loads more than tensors.
_CONVERT = (
    "import sys, pathlib, torch, safetensors.torch as s; f = pathlib.Path(sys.argv[1]); t = {{}}; "
    "[t.update(torch.load(p, 'cpu', weights_only={safe})) for p in f.glob('pytorch_model*.bin')]; "
    "t = {{k: v.contiguous().clone() for k, v in t.items() if torch.is_tensor(v)}}; "
    "s.save_file(t, f / 'model.safetensors', {{'format': 'pt'}})"
)


def pickled_infos(path: Path) -> dict[str, TensorInfo]:
    """Return the places of the tensors in a `pytorch_model.bin`.

    Tensors that share their storage, like tied weights, have the same place.

    Args:
        path: The file.

    Returns:
        File, offset, shape and type by name.

    Raises:
        CheckpointError: The file is damaged, of the format before torch 1.6, or holds more than
            plain contiguous tensors.
    """
    _require_zip(path)
    try:
        records = _records(path)
        _require_plain(path)
        stored = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path}: refused, because it holds more than tensors and loading it could run code.\n"
            "Only if you trust its author, convert it in a sandbox:\n"
            f"{_conversion(path, trusted=True)}"
        )
        raise CheckpointError(msg) from error
    except _DAMAGED as error:
        if exhausted(error):
            raise
        raise _damaged(path, (str(error).splitlines() or [repr(error)])[0]) from error
    if not isinstance(stored, dict):
        msg = f"{path}: holds a {type(stored).__name__}, not tensors by name"
        raise CheckpointError(msg)
    return {str(name): _info(path, str(name), value, records) for name, value in stored.items()}


def _require_zip(path: Path) -> None:
    """Raise CheckpointError for the format before zip archives, whose data has no offsets."""
    with path.open("rb") as file:
        begin = file.read(len(_LEGACY))
    if begin == _LEGACY:
        msg = (
            f"{path}: written in the format that torch left in 2020. Convert it to safetensors:\n"
            f"{_conversion(path)}"
        )
        raise CheckpointError(msg)
    if not begin.startswith(_ZIP):
        raise _damaged(path, "no torch archive begins like that")


def _records(path: Path) -> dict[int, int]:
    """Return the size of each uncompressed record by its offset in the file."""
    sizes = {}
    with ZipFile(path) as archive, path.open("rb") as file:
        for record in archive.infolist():
            if record.filename.endswith("/byteorder") and archive.read(record) != b"little":
                msg = "written on a big-endian machine"
                raise ValueError(msg)
            if record.compress_type == ZIP_STORED:
                file.seek(
                    record.header_offset + 26
                )  # the lengths of the header's two variable fields
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                sizes[record.header_offset + 30 + name + extra] = record.file_size
    return sizes


def _require_plain(path: Path) -> None:
    """Raise UnpicklingError if the pickle names anything that plain tensors do not need."""
    with ZipFile(path) as archive:
        described = [each for each in archive.infolist() if each.filename.endswith("/data.pkl")]
        if len(described) != 1 or described[0].file_size > _MAX_PICKLE_BYTES:
            msg = "no description of the tensors, or one that is too large"
            raise ValueError(msg)
        opcodes = archive.read(described[0])
    for opcode, argument, _ in pickletools.genops(opcodes):
        known = opcode.name != "GLOBAL" or _NAMED.fullmatch(str(argument))
        if not known or opcode.name in _OTHER_NAMES:
            msg = f"{opcode.name} {argument or ''}"
            raise pickle.UnpicklingError(msg)


def _info(path: Path, name: str, value: Any, records: dict[int, int]) -> TensorInfo:
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_contiguous():
        kind = type(value).__name__ if not isinstance(value, Tensor) else "tensor with gaps"
        msg = (
            f"{path}: {name} is a {kind}, not a contiguous tensor. Convert it to safetensors:\n"
            f"{_conversion(path)}"
        )
        raise CheckpointError(msg)
    begin: int = getattr(value.untyped_storage(), "_checkpoint_offset", -1)
    first = int(value.storage_offset()) * value.itemsize
    if first + value.numel() * value.itemsize > records.get(begin, -1):
        raise _damaged(path, f"no room for the values of {name}")
    dtype = NAMES.get(value.dtype, str(value.dtype).removeprefix("torch."))
    return TensorInfo(path, begin + first, tuple(value.shape), dtype)


def _damaged(path: Path, reason: str) -> CheckpointError:
    size = path.stat().st_size
    return CheckpointError(f"{path}: damaged or truncated at {size} bytes ({reason}): fetch again")


def _conversion(path: Path, *, trusted: bool = False) -> str:
    """Return the command that writes safetensors beside the file, which are then preferred.

    It names this Python, because another one on the PATH may have no torch.
    """
    script = _CONVERT.format(safe=not trusted)
    python, folder = (shlex.quote(str(each)) for each in (sys.executable, path.parent))
    return f'{python} -c "{script}" {folder}'
