"""Hostile graphs, manifests and packages."""

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, helper

from tests.support.sealed import manifest, members


def stored(told: Iterable[tuple[str, str]], name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in told:
        tensor.external_data.add(key=key, value=value)
    return tensor


def beside_a_graph(tensor: TensorProto) -> onnx.ModelProto:
    return modelled([helper.make_node("Identity", ["w"], ["y"])], [tensor])


def in_a_node(tensor: TensorProto) -> onnx.ModelProto:
    return modelled([helper.make_node("Constant", [], ["y"], value=tensor)])


def in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    inner = in_a_node(tensor).graph
    branches = {"then_branch": inner, "else_branch": inner}
    return modelled([helper.make_node("If", ["c"], ["y"], **branches)])


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    model = modelled([helper.make_node("F", [], ["y"], domain="d")])
    inner = helper.make_node("Constant", [], ["y"], value=tensor)
    opset = helper.make_opsetid("", 21)
    model.functions.append(helper.make_function("d", "F", [], ["y"], [inner], [opset]))
    return model


def in_a_sparse_one(tensor: TensorProto) -> onnx.ModelProto:
    model = modelled([helper.make_node("Identity", ["w"], ["y"])])
    model.graph.sparse_initializer.add(dims=[2]).values.CopyFrom(tensor)
    return model


def in_a_list(tensor: TensorProto) -> onnx.ModelProto:
    return modelled([helper.make_node("Constant", [], ["y"], values=[tensor])])


def modelled(
    nodes: list[onnx.NodeProto], initializers: Iterable[TensorProto] = ()
) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    return helper.make_model(helper.make_graph(nodes, "g", [], [output], list(initializers)))


def field(number: int, inner: bytes) -> bytes:
    """A message in a message, as protobuf writes it."""
    length, size = b"", len(inner)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + inner


@dataclass(frozen=True)
class Member:
    """A member of a zip, each header of which may say something else."""

    name: bytes
    data: bytes
    content: bytes | None = None
    size: int | None = None
    method: int = 0
    flags: int = 0
    own_name: bytes | None = None

    @property
    def told(self) -> bytes:
        content = self.data if self.content is None else self.content
        sizes = (len(self.data), len(content)) if self.size is None else (self.size, self.size)
        crc = zlib.crc32(content)
        return struct.pack("<5H3L", 20, self.flags, self.method, 0, 33, crc, *sizes)

    @property
    def header(self) -> bytes:
        name = self.name if self.own_name is None else self.own_name
        return b"PK\3\4" + self.told + struct.pack("<2H", len(name), 0) + name

    def entry(self, place: int) -> bytes:
        sizes = struct.pack("<5H2L", len(self.name), 0, 0, 0, 0, 0o644 << 16, place)
        return b"PK\1\2\x14\3" + self.told + sizes + self.name


def zipped(made: Iterable[Member], comment: bytes = b"", places: int | None = None) -> bytes:
    body, directory, count = b"", b"", 0
    for member in made:
        directory += member.entry(len(body) if places is None else places)
        body += member.header + member.data
        count += 1
    end = struct.pack("<4H2LH", 0, 0, count, count, len(directory), len(body), len(comment))
    return body + directory + b"PK\5\6" + end + comment


def ours() -> list[Member]:
    return [_ours(name.encode(), data) for name, data in sorted(members("encoder").items())]


def _ours(name: bytes, data: bytes) -> Member:
    """A member as the target writes it, which compresses the library."""
    if name.endswith(b".so"):
        return Member(name, deflated(data), content=data, method=8)
    return Member(name, data)


GOOD = {"location": "model.onnx_data", "offset": "0", "length": "8"}


ELSEWHERE: dict[str, list[tuple[str, str]]] = {
    "no place": [],
    "the folder above": [("location", "../secret"), ("length", "8")],
    "the root": [("location", "/etc/passwd"), ("length", "8")],
    "through a folder": [("location", "deep/../../secret"), ("length", "8")],
    "in a folder": [("location", "deep/data"), ("length", "8")],
    "a dot before": [("location", "./model.onnx_data"), ("length", "8")],
    "backslashes": [("location", "..\\secret"), ("length", "8")],
    "a NUL": [("location", "model.onnx_data\0"), ("length", "8")],
    "a look-alike": [("location", "model.\u043ennx_data"), ("length", "8")],
    "not sealed": [("location", "manifest.json"), ("length", "8")],
    "missing": [("location", "absent.onnx_data"), ("length", "8")],
    "a negative length": [("location", "model.onnx_data"), ("length", "-1")],
    "a negative offset": [("location", "model.onnx_data"), ("offset", "-8"), ("length", "8")],
    "too long": [("location", "model.onnx_data"), ("offset", "1"), ("length", "8")],
    "beyond all numbers": [("location", "model.onnx_data"), ("length", str(2**63))],
    "digits without end": [("location", "model.onnx_data"), ("length", "9" * 5000)],
    "no length": [("location", "model.onnx_data")],
    "an unknown word": [*GOOD.items(), ("__class__", "x")],  # CVE-2026-34445
    "one place after the other": [*GOOD.items(), ("location", "../secret")],
}


MANIFESTS: dict[str, bytes] = {
    "nothing": b"",
    "a tower": b'{"x":' * 100_000,
    "a tower of options": manifest("aoti").canonical().replace(
        b'"threads": null', b'"threads": ' + b"[" * 5000 + b"]" * 5000
    ),
    "a list": b"[]",
    "not a number": manifest("aoti").canonical().replace(b"1.5", b"NaN"),
    "infinite": manifest("aoti").canonical().replace(b"1.5", b"1e999"),
    "endless digits": manifest("aoti").canonical().replace(b"1.5", b"9" * 5000),
    "a monster": b" " * (5 << 20),
    "a key twice": manifest("aoti").canonical().replace(b'"kind"', b'"name": "x", "kind"'),
    "a surrogate": manifest("aoti").canonical().replace(b'"tiny"', b'"\\ud800"'),
    "UTF-16": manifest("aoti").canonical().decode().encode("utf-16"),
    "a later version": manifest("aoti").canonical().replace(b"version\": 1", b"version\": 2"),
}  # fmt: skip


Change = Callable[[list["Member"]], Iterable["Member"]]


def more(name: bytes, data: bytes = b"x") -> Change:
    return lambda made: [*made, Member(name, data)]


def other(index: int = -1, **values: object) -> Change:
    def change(made: list[Member]) -> list[Member]:
        made[index] = replace(made[index], **values)  # type: ignore[arg-type]
        return made

    return change


def deflated(data: bytes) -> bytes:
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packed.compress(data) + packed.flush()


def bomb(made: list[Member]) -> list[Member]:
    zeros = bytes(1 << 26)
    return [*made[:-1], replace(made[-1], data=deflated(zeros), content=zeros, method=8)]


def library(**values: object) -> Change:
    """Change the one member that may be compressed."""

    def change(made: list[Member]) -> list[Member]:
        (place,) = (i for i, member in enumerate(made) if member.name.endswith(b".so"))
        return other(place, **values)(made)

    return change


MODEL = b"encoder/data/aotinductor/model/"


MEMBERS: dict[str, Change] = {
    "a pickle for weights": more(b"encoder/data/weights/model_weights_config.json"),
    "a pickle for constants": more(b"encoder/data/constants/model_constants_config.json"),
    "a pickle for inputs": more(b"encoder/data/sample_inputs/model.pt"),
    "a program": more(b"encoder/models/model.json"),
    "a way out": more(MODEL + b"../../../../../../canary"),
    "a way out for a known one": other(own_name=MODEL + b"../../../../canary"),
    "from the root": more(b"/tmp/canary"),
    "backslashes": more(MODEL.replace(b"/", b"\\") + b"..\\canary"),
    "a drive": more(b"C:/canary"),
    "a NUL": more(MODEL + b"graph.wrapper.so\0.json"),
    "a NUL instead": other(name=MODEL + b"graph.wrapper_metadata.json\0"),
    "another library": more(MODEL + b"other.so"),
    "another model": more(b"encoder/data/aotinductor/other/graph.wrapper.so"),
    "another archive": more(b"other/archive_format"),
    "a folder": more(b"encoder/data/", b""),
    "one twice": lambda made: [*made, made[-1]],
    "one twice, other data": lambda made: [*made, replace(made[-1], data=b"evil")],
    "one missing": lambda made: made[1:],
    "no archive_format": lambda made: [m for m in made if not m.name.endswith(b"_format")],
    "no members": lambda made: [],
    "deflated": other(method=8),
    "a bomb": bomb,
    "a bomb for a library": library(data=deflated(bytes(1 << 26)), content=bytes(1 << 26)),
    "a library compressed otherwise": library(method=12),
    "more than there is": other(size=1 << 31),
    "less than there is": other(size=1),
    "encrypted": other(flags=1),
    "another name before the data": other(own_name=b"encoder/data/sample_inputs/model.pt"),
}  # fmt: skip


BYTES: dict[str, bytes] = {
    "something before": b"#!/bin/sh\n" + zipped(ours()),
    "something after": zipped(ours()) + b"x",
    "a comment": zipped(ours(), comment=b"PK\5\6"),
    "another zip after": zipped(ours()) + zipped(ours()),
    "one over the other": zipped(ours(), places=0),
    "no zip": b"not a zip",
    "nothing": b"",
    "the end alone": zipped([]),
    "half": zipped(ours())[:500],
    "a directory that is not there": zipped(ours())[:-22] + b"PK\5\6" + b"\xff" * 18,
    "a directory that says 64 bits": zipped(ours())[:-22]
    + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),
}  # fmt: skip
