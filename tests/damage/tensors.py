"""The stored tensors of an artifact, under the names of transformers, whatever its target."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_SAFETENSORS = ("model.safetensors", "weights.safetensors")
_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
}
_INTEGERS = (torch.int8, torch.uint8)
_ZERO = 128  # of unsigned codes


class Tensors(dict[str, Tensor]):
    """Tensors by name; int8 codes are [out, in] and signed in every target. Edit them in place.

    Codes in groups are bytes [out, bytes] or [out, groups, bytes], whose order is the same.
    """

    def layers(self, side: str) -> int:
        """The number of layers of "encoder" or "decoder"."""
        starts = {name.split(".")[3] for name in self if name.startswith(f"model.{side}.layers.")}
        return len(starts)


@contextmanager
def tensors_of(folder: Path) -> Iterator[Tensors]:
    """Open an artifact's tensors, and write back those that were changed."""
    plain = next((folder / name for name in _SAFETENSORS if (folder / name).exists()), None)
    with _safetensors(plain) if plain else _external(folder) as tensors:
        yield tensors


@contextmanager
def _safetensors(path: Path) -> Iterator[Tensors]:
    tensors = Tensors({name: t.clone() for name, t in load_file(path).items()})
    yield tensors
    path.unlink()
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)


@contextmanager
def _external(folder: Path) -> Iterator[Tensors]:
    """The external data of all graphs: names are a wrapper's, and codes are [in, out]."""
    named = _naming(folder)
    places: dict[str, tuple[Path, int, int, Any, tuple[int, ...], bool]] = {}
    for graph in sorted(folder.rglob("*.onnx")):
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                own = named(tensor.name)
                file = graph.with_name(entries["location"])
                span = int(entries["offset"]), int(entries["length"])
                dtype, shape = _TYPES[tensor.data_type], tuple(tensor.dims)
                places[own] = file, *span, dtype, shape, _is_transposed(own, dtype, shape)
    tensors = Tensors({name: _read(*place) for name, place in places.items()})
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    yield tensors
    for name, tensor in tensors.items():
        if not torch.equal(_bits(tensor), _bits(before[name])):
            _write(tensor, *places[name])


def _naming(folder: Path) -> Callable[[str], str]:
    """Return what makes transformers' names of a graph's: Whisper's graphs hold half of a model."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "whisper":
        return lambda name: name.removeprefix("model.")
    return lambda name: name if name.startswith("proj_out") else f"model.{name}"


def _is_transposed(name: str, dtype: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a graph's tensor is codes of rows, stored as columns.

    Groups are not, nor is a head that is the token table, too.
    """
    shared = name == "proj_out.weight"
    return name.endswith(".weight") and dtype in _INTEGERS and len(shape) == 2 and not shared


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _read(
    file: Path, offset: int, length: int, dtype: Any, shape: tuple[int, ...], transposed: bool
) -> Tensor:
    with file.open("rb") as stream:
        stream.seek(offset)
        stored = torch.frombuffer(bytearray(stream.read(length)), dtype=dtype).reshape(shape)
    if not transposed:
        return stored
    signed = (stored.short() - _ZERO).to(torch.int8) if dtype == torch.uint8 else stored
    return signed.t().contiguous()


def _write(
    tensor: Tensor,
    file: Path,
    offset: int,
    length: int,
    dtype: Any,
    shape: tuple[int, ...],
    transposed: bool,
) -> None:
    stored = tensor.t() if transposed else tensor
    if transposed and dtype == torch.uint8:
        stored = stored.short() + _ZERO
    data = _bits(stored.to(dtype)).numpy().tobytes()
    assert len(data) == length, f"{tuple(stored.shape)} is not {shape}"
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)
