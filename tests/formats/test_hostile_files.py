"""Graphs, manifests and recordings that were made to do harm: refused before they are opened."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto

from exporter.artifact import store
from exporter.errors import DataError
from exporter.formats import audio, onnx_reader
from exporter.runtime.onnx.external_data import require_sealed
from tests.support.hostile import (
    ELSEWHERE,
    GOOD,
    MANIFESTS,
    beside_a_graph,
    field,
    in_a_branch,
    in_a_function,
    in_a_list,
    in_a_node,
    in_a_sparse_one,
    stored,
)
from tests.support.sealed import refusal, seal

pytestmark = pytest.mark.usefixtures("no_loader", "harmless")


# ONNX: weights beside the graph

WHERE = [beside_a_graph, in_a_node, in_a_branch, in_a_function, in_a_sparse_one, in_a_list]


def sealed_onnx(folder: Path, graph: bytes) -> Path:
    (folder / "secret").write_bytes(bytes(8))
    files = {"model.onnx": graph, "model.onnx_data": bytes(8), "deep/data.json": bytes(8)}
    return seal(folder / "onnx", "onnx-int8", files)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("case", ELSEWHERE)
def test_weights_elsewhere(
    case: str, where: Callable[[TensorProto], onnx.ModelProto], tmp_path: Path
) -> None:
    graph = where(stored(ELSEWHERE[case])).SerializeToString()
    told = refusal(sealed_onnx(tmp_path, graph))
    assert "model.onnx: the tensor 'w' " in told


@pytest.mark.parametrize("where", WHERE)
def test_weights_where_they_belong(
    where: Callable[[TensorProto], onnx.ModelProto], tmp_path: Path
) -> None:
    graph = where(stored(GOOD.items())).SerializeToString()
    folder = sealed_onnx(tmp_path, graph)
    files = store.verify(folder).files
    sizes = {file.path: file.size_bytes for file in files}
    require_sealed(folder / "model.onnx", graph, sizes)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_weights_by_a_link(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """onnxruntime 1.31.1 follows the hard one."""
    folder = sealed_onnx(tmp_path, beside_a_graph(stored(GOOD.items())).SerializeToString())
    (folder / "model.onnx_data").unlink()
    link(tmp_path / "secret", folder / "model.onnx_data")
    assert "is a link" in refusal(folder)


@pytest.mark.parametrize("graph", [b"", b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x7f", b"onnx" * 100])
def test_bytes_that_are_no_graph(graph: bytes, tmp_path: Path) -> None:
    if graph:
        assert "model.onnx is not an ONNX graph" in refusal(sealed_onnx(tmp_path, graph))


def test_branches_without_end(tmp_path: Path) -> None:
    graph = b""
    for _ in range(40):  # a node's attribute is a graph
        graph = field(1, field(5, field(6, graph)))
    told = refusal(sealed_onnx(tmp_path, field(7, graph)))
    assert "model.onnx is not an ONNX graph" in told


def test_no_way_to_a_weight_is_forgotten() -> None:
    """Of all messages that a model may hold, those and their fields that lead to a tensor."""
    found, left = {}, [onnx.ModelProto.DESCRIPTOR]
    while left:
        message = left.pop()
        found[message.name] = {f.number: f.message_type for f in message.fields if f.message_type}
        left += [inner for inner in found[message.name].values() if inner.name not in found]
    leading = {"TensorProto"}
    for _ in found:
        leading |= {n for n, fields in found.items() if leading & {m.name for m in fields.values()}}
    assert {
        name: {number: m.name for number, m in found[name].items() if m.name in leading}
        for name in leading - {"TensorProto"}
    } == onnx_reader._TO_TENSORS


# Configs

BRINGING = [
    *('{"auto_map": {"AutoModel": "evil.Evil"}}', '{"a": [{"trust_remote_code": true}]}'),
    *('{"vocab_file": "/etc/passwd"}', '{"attn_implementation": "evil/kernel"}', "[", "[]"),
    '{"a":' * 100 + "1" + "}" * 100,
]


@pytest.mark.parametrize("text", BRINGING)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_configs_of_artifacts(name: str, text: str, tmp_path: Path) -> None:
    folder = seal(tmp_path / "data", "onnx-int8", {name: text.encode()})
    assert name in refusal(folder)


# Manifests

PATHS = [
    *(
        "../outside",
        "/etc/passwd",
        "a/../../outside",
        "..",
        ".",
        "",
        "a\\b",
        "C:\\x",
        "deep/../../x",
    ),
    *("x\0y", "\x1b[2J", "x\n\n\n\ny", "//x", "./config.json", "x" * 5000),
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_of_a_manifest(path: str, tmp_path: Path) -> None:
    folder = seal(tmp_path / "data", "onnx-int8", {"merges.txt": b"x"})
    (tmp_path / "outside").write_bytes(b"x")
    told = store.read_manifest(folder)
    file = told.files[0].model_copy(update={"path": path})
    (folder / "manifest.json").write_bytes(
        told.model_copy(update={"files": (*told.files, file)}).canonical()
    )
    refusal(folder)


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_that_do_harm(case: str, tmp_path: Path) -> None:
    folder = seal(tmp_path / "data", "onnx-int8", {"merges.txt": b"x"})
    (folder / "manifest.json").write_bytes(MANIFESTS[case])
    refusal(folder)


# Recordings


def wav(
    rate: int = 16000,
    channels: int = 1,
    data: bytes = bytes(3200),
    size: int | None = None,
    kind: int = 1,
    width: int = 2,
) -> bytes:
    size = len(data) if size is None else size
    block = channels * width
    described = struct.pack(
        "<IHHIIHH", 16, kind, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, 8 * width
    )
    whole = struct.pack("<I", (36 + size) & 0xFFFFFFFF)
    return b"RIFF" + whole + b"WAVEfmt " + described + b"data" + struct.pack("<I", size) + data


def flac_of(samples: int, folder: Path) -> bytes:
    """A second of silence whose header promises more."""
    soundfile.write(folder / "true.flac", np.zeros(16000), 16000)
    whole = bytearray((folder / "true.flac").read_bytes())
    whole[21] = whole[21] & 0xF0 | samples >> 32 & 15
    whole[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    return bytes(whole)


RECORDINGS: dict[str, bytes] = {
    "a billion hertz": wav(rate=10**9),
    "four billion hertz": wav(rate=2**32 - 1),
    "a hertz": wav(rate=1),
    "no hertz": wav(rate=0),
    "255 channels": wav(channels=255, data=bytes(510 * 16)),
    "a thousand channels": wav(channels=1000, data=bytes(64_000)),
    "no channels": wav(channels=0),
    "no samples": wav(data=b""),
    "no numbers": wav(kind=3, width=4, data=struct.pack("<f", float("nan")) * 800),
    "no end of numbers": wav(kind=3, width=4, data=struct.pack("<f", float("inf")) * 800),
    "no size": wav(width=0),
    "an unknown kind": wav(kind=0x1234),
    "half a header": wav()[:30],
    "a playlist": b"#EXTM3U\nfile:///etc/passwd\n",
    "a page": b"<html></html>",
    "a tag without end": b"ID3\x03\x00\x00\x7f\x7f\x7f\x7f",
    "a pickle": b"\x80\x02cbuiltins\nopen\n(X\x06\x00\x00\x00canaryX\x01\x00\x00\x00wtR.",
}


@pytest.mark.parametrize("case", RECORDINGS)
def test_recordings_that_do_harm(case: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(RECORDINGS[case])
    with pytest.raises(DataError, match=r"clip\.wav") as caught:
        audio.read(path, 16000)
    assert len(str(caught.value).splitlines()) <= 3
    assert not (tmp_path / "canary").exists()


def test_what_a_header_promises_takes_no_memory(tmp_path: Path) -> None:
    """Four gigabytes, of which a tenth of a second is there; and a flac of two months."""
    path = tmp_path / "clip.wav"
    path.write_bytes(wav(size=2**32 - 16))
    assert len(audio.read(path, 16000)) == 1600
    path.write_bytes(flac_of(2**36 - 1, tmp_path))
    with pytest.raises(DataError, match=r"clip\.wav"):
        audio.read(path, 16000)


def test_a_recording_of_days_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio.files, "MAX_S", 2)
    soundfile.write(tmp_path / "clip.wav", np.zeros(16000 * 2), 16000)
    assert len(audio.read(tmp_path / "clip.wav", 16000)) == 32000
    soundfile.write(tmp_path / "clip.wav", np.zeros(16000 * 2 + 1), 16000)
    with pytest.raises(DataError, match="longer than"):
        audio.read(tmp_path / "clip.wav", 16000)
