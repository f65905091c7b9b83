"""Hostile files of torch and safetensors."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

CANARY = "canary"


Change = Callable[[Path], object]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def called(function: bytes, *arguments: str) -> bytes:
    return function + b"(" + b"".join(map(text, arguments)) + b"tR"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


OPEN = called(named("builtins", "open"), CANARY, "w")


WRITE = "open('canary', 'w')"


INNER = b"\x80\x02" + OPEN + b"."


MODULE = called(named("builtins", "__import__"), "os")


# With an unrestricted unpickler, each of these leaves the canary.
SPRINGING: dict[str, bytes] = {
    "reduce": OPEN,
    "protocol 0": b"cbuiltins\nopen\n(S'canary'\nS'w'\ntR",
    "in a table": b"}" + text("weight") + OPEN + b"s",
    "before a table": OPEN + b"0}",
    "eval": called(named("builtins", "eval"), WRITE),
    "exec": called(named("builtins", "exec"), WRITE),
    "io": called(named("io", "open"), CANARY, "w"),
    "os.system": called(named("os", "system"), "touch canary"),
    "posix.system": called(named("posix", "system"), "touch canary"),
    "subprocess": called(named("subprocess", "getoutput"), "touch canary"),
    "os.mkdir": called(named("os", "mkdir"), CANARY),
    "timeit": called(named("timeit", "timeit"), "pass", WRITE),
    "a log": called(named("logging", "FileHandler"), CANARY, "w"),
    "a zip": called(named("zipfile", "ZipFile"), CANARY, "w"),
    "a tar": called(named("tarfile", "open"), CANARY, "w"),
    "torch's own": called(named("torch.serialization", "_open_file"), CANARY, "w"),
    "stack global": called(text("builtins") + text("open") + b"\x93", CANARY, "w"),
    "from the memo": called(
        text("open") + b"q\x000" + text("builtins") + b"h\x00\x93", CANARY, "w"
    ),
    "dotted": called(text("os") + text("path.os.mkdir") + b"\x93", CANARY),
    "inst": b"(" + text(CANARY) + text("w") + b"ibuiltins\nopen\n",
    "obj": b"(" + named("builtins", "open") + text(CANARY) + text("w") + b"o",
    "getattr": named("builtins", "getattr") + b"(" + called(MODULE + text("mkdir") + b"tR", CANARY),
    "partial": named("functools", "partial") + b"(" + named("builtins", "open") + text(CANARY)
    + text("w") + b"tR)R",
    "nested": named("pickle", "loads") + b"(B" + struct.pack("<I", len(INNER)) + INNER + b"tR",
    "doubly nested": named("pickle", "loads") + b"(" + named("pickle", "dumps") + b"("
    + OPEN + b"tRtR",
}  # fmt: skip


# These do harm in other ways, or would with some unpicklers.
QUIET: dict[str, bytes] = {
    "all the memory": named("builtins", "bytearray") + b"(\x8a\x06\x00\x00\x00\x00\x00\x10tR",
    "a sparse tensor": named("torch._utils", "_rebuild_sparse_tensor") + b")R",
    "a quantized tensor": named("torch._utils", "_rebuild_qtensor") + b")R",
    "any type": named("torch._tensor", "_rebuild_from_type_v2") + b")R",
    "an extension": b"\x82\x01",
    "a far extension": b"\x84\x01\x00\x00\x01",
    "a persistent id": b"}" + text("w") + text("canary") + b"Qs",
    "a persistent name": b"Pcanary\n",
    "an endless memo": b"}r\xff\xff\xff\x7f",
    "endless text": b"\x8d\xff\xff\xff\xff\xff\x00\x00\x00x",
    "no end": b"]" * 1000,
    "a setter": named("builtins", "object") + b")\x81}" + text("__setstate__") + text("x") + b"sb",
    "a look-alike": "ct\u03bfrch._utils\n_rebuild_tensor_v2\n)R".encode(),
    "a tower": b"(" * 100_000 + b"t" * 100_000,
    "a name of a name": named("collections", "OrderedDict.__init__.__globals__"),
}


def torch_file(path: Path, opcodes: bytes, stem: str = "archive") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": opcodes, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"{stem}/{name}", data)


def legacy(path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(INNER + whole)


def two_descriptions(path: Path) -> None:
    torch_file(path, INNER)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02}.")


def in_a_zip(path: Path) -> None:
    torch_file(path, INNER)
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pytorch_model.bin", whole)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 28))


def flagged(path: Path) -> None:
    """Bits altered that scanners stumble over."""
    torch_file(path, INNER)
    whole = bytearray(path.read_bytes())
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 8] |= 1
    path.write_bytes(whole)


FILES: dict[str, Change] = {
    "a bare pickle": lambda path: path.write_bytes(INNER),
    "the old format": lambda path: torch.save([1], path, _use_new_zipfile_serialization=False),
    "a pickle before the old format": legacy,
    "two descriptions": two_descriptions,
    "a zip in a zip": in_a_zip,
    "a bomb": bomb,
    "altered flags": flagged,
    "a 7z": lambda path: path.write_bytes(b"7z\xbc\xaf'\x1c" + INNER),
    "a tar": lambda path: path.write_bytes(b"archive/data.pkl".ljust(512, b"\0") + INNER),
    "no description": lambda path: zipfile.ZipFile(path, "w").close(),
    "a pickle with a zip's begin": lambda path: path.write_bytes(b"PK\x03\x04" + INNER),
}


def header(length: int, rest: bytes) -> Change:
    return lambda path: path.write_bytes(struct.pack("<Q", length) + rest)


SAFETENSORS: dict[str, Change] = {
    "a pickle": lambda path: path.write_bytes(INNER),
    "a torch file": lambda path: torch_file(path, INNER),
    "endless": header(2**63, b"{}"),
    "more than is there": header(1 << 20, b"{}"),
    "a hundred megabytes": header(99_000_000, b"{" + b" " * 99_000_000),
    "deep": header(30_000, b"[" * 30_000),
    "no object": header(2, b"[]"),
    "a lie": header(
        64, json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}})
        .encode().ljust(64)
    ),
}  # fmt: skip
