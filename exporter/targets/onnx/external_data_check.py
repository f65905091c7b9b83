"""Check where a graph's weights lie before onnxruntime opens it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from exporter.errors import IntegrityError


def require_sealed(path: Path, sealed: Mapping[str, int]) -> None:
    """Refuse a graph that takes weights from elsewhere than `sealed` files of so many bytes.

    Before a runtime opens it: onnxruntime 1.31 refuses `../`, but follows a hard link, and reads
    what the artifact's manifest does not name.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        msg = f"{path} is not an ONNX graph ({error}): build or fetch the artifact again"
        raise IntegrityError(msg) from error
    for tensor in _tensors(model):
        told = {entry.key: entry.value for entry in tensor.external_data}
        if told or tensor.data_location == onnx.TensorProto.EXTERNAL:
            problem = _outside(told, len(tensor.external_data), sealed)
            if problem:
                msg = (
                    f"{path}: the tensor {tensor.name[:80]!r} {problem}; nothing was opened.\n"
                    "Build the artifact again, or fetch it from a source you trust."
                )
                raise IntegrityError(msg)


def _outside(told: Mapping[str, str], entries: int, sealed: Mapping[str, int]) -> str | None:
    """What is wrong with where a tensor says that its values lie."""
    if len(told) != entries or not told.keys() <= {"location", "offset", "length"}:
        return "says where its values lie in words that we do not write"
    place = told.get("location", "")
    if place not in sealed or "/" in place:
        return f"takes its values from {place[:80]!r}, which is no sealed file beside the graph"
    first, length = told.get("offset", "0"), told.get("length", "")
    if not (first.isdecimal() and length.isdecimal() and max(len(first), len(length)) < 20):
        return "has no place in its file"
    return "lies outside its file" if int(first) + int(length) > sealed[place] else None


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor at any depth of a graph: in nodes, their subgraphs, functions and all."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from _tensors(inner)
