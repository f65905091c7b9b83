"""The doctor among files that were made to do harm: nothing runs, all is told, nothing takes long.

The files are those that a build and a loader are tried with; whatever they are refused for there,
here it is a finding.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import pytest

from exporter.cli import main
from exporter.doctor.finding import Level
from tests.support import hostile, hostile_configs, hostile_torch
from tests.support.doctor_sweep import GRAPH, WEIGHTS, copy_of, damageable, looked_at, sweep
from tests.support.hostile import (
    beside_a_graph,
    field,
    in_a_branch,
    in_a_node,
    ours,
    stored,
    zipped,
)
from tests.support.sealed import seal

Record = Callable[[str, object], None]


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where payloads would leave the canary."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def blamed(folder: Path, name: str) -> None:
    """Something is said about a file."""
    found = looked_at(folder)
    assert any(finding.where == name for _, finding in found.found), found.found


def test_pickles(tiny_whisper: Path, somewhere: Path, record_property: Record) -> None:
    cases: dict[str, Callable[[Path], object]] = {
        case: lambda path, opcodes=opcodes: hostile_torch.torch_file(  # type: ignore[misc]
            path, b"\x80\x04" + opcodes + b"."
        )
        for case, opcodes in {**hostile_torch.SPRINGING, **hostile_torch.QUIET}.items()
    }
    for case, change in (cases | hostile_torch.FILES).items():
        with copy_of(tiny_whisper, somewhere / "model") as folder:
            (folder / WEIGHTS).unlink()
            change(folder / "pytorch_model.bin")
            found = looked_at(folder)
            level: Level = "warning" if case == "an endless memo" else "problem"  # it ends
            assert [f.where for f in found.of(level)] == ["pytorch_model.bin"], case
    record_property("promise", "P7")
    record_property("cases", len(cases) + len(hostile_torch.FILES))


def test_headers(tiny_whisper: Path, somewhere: Path) -> None:
    for case, change in hostile_torch.SAFETENSORS.items():
        with copy_of(tiny_whisper, somewhere / "model") as folder:
            change(folder / WEIGHTS)
            assert [f.where for f in looked_at(folder).of("problem")] == [WEIGHTS], case


def test_configs(tiny_whisper: Path, somewhere: Path, record_property: Record) -> None:
    """Numbers that no model has are no code: they are data, and take nothing."""
    changes = dict(hostile_configs.HARMFUL)
    for key, value in hostile_configs.CODE.items():
        changes |= {key: hostile_configs.changed("config.json", **{key: value})}
    for case, change in changes.items():
        with copy_of(tiny_whisper, somewhere / "model") as folder:
            change(folder)
            found = looked_at(folder)
        if case in hostile_configs.CODE or case in hostile_configs.OUTSIDE:
            assert found.of("problem"), case
    record_property("promise", "P7")
    record_property("cases", len(changes))


@pytest.mark.usefixtures("no_loader")
def test_graphs(tiny_whisper: Path, somewhere: Path, record_property: Record) -> None:
    cases = hostile.ELSEWHERE
    for told in cases.values():
        for made in (beside_a_graph, in_a_node, in_a_branch):
            with copy_of(tiny_whisper, somewhere / "model") as folder:
                (somewhere / "secret").write_bytes(bytes(8))
                (folder / "model.onnx_data").write_bytes(bytes(8))
                (folder / GRAPH).write_bytes(made(stored(told)).SerializeToString())
                looked_at(folder)
    record_property("promise", "P7")
    record_property("cases", 3 * len(cases))


LOST = ("no place", "the folder above", "the root", "a NUL", "missing", "too long", "no length")


@pytest.mark.parametrize("case", [name for name in LOST if name != "no length"])
def test_weights_elsewhere(
    case: str, tiny_whisper: Path, somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.doctor.checks.onnx_files._newest", lambda: (99, 99, "any"))
    with copy_of(tiny_whisper, somewhere / "model") as folder:
        (folder / "model.onnx_data").write_bytes(bytes(8))
        told = stored(hostile.ELSEWHERE[case])
        (folder / GRAPH).write_bytes(in_a_branch(told).SerializeToString())
        checks = {check for check, finding in looked_at(folder).found if finding.where == GRAPH}
        assert "weights" in checks


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):  # a node's attribute is a graph
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


BYTES: Mapping[str, bytes] = {
    "nothing": b"",
    "noise": b"\xff" * 64,
    "a length beyond the end": b"\x0a\xff\xff\xff\xff\x7f",
    "a length without end": b"\x0a" + b"\xff" * 64,
    "text": b"onnx" * 100,
    "branches without end": b"\x08\x08" + nested(40),
    "a group": b"\x0b\x08\x01\x0c",
    "a name of a megabyte": b"\x08\x08" + field(7, field(1, field(4, b"x" * (1 << 20)))),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_graph(case: str, tiny_whisper: Path, somewhere: Path) -> None:
    with copy_of(tiny_whisper, somewhere / "model") as folder:
        (folder / GRAPH).write_bytes(BYTES[case])
        blamed(folder, GRAPH)


def test_packages(tiny_whisper: Path, somewhere: Path, record_property: Record) -> None:
    packages = [zipped(change(ours())) for change in hostile.MEMBERS.values()]
    packages += hostile.BYTES.values()
    with copy_of(tiny_whisper, somewhere / "model") as folder:
        for package in packages:
            (folder / "encoder.pt2").write_bytes(package)
            (finding,) = looked_at(folder).of("warning")
            assert finding.where == "encoder.pt2"
            assert "not one of exporter's" in finding.what
    record_property("promise", "P7")
    record_property("cases", len(packages))


def test_manifests(somewhere: Path) -> None:
    for case, data in hostile.MANIFESTS.items():
        folder = seal(somewhere / case.replace(" ", "-"), "onnx-int8", {"merges.txt": b"x"})
        (folder / "manifest.json").write_bytes(data)
        blamed(folder, "manifest.json")


ODD: Mapping[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a secret": lambda path: path.symlink_to("/etc/passwd"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("absent"),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("name", ["config.json", GRAPH, WEIGHTS, "pytorch_model.bin", "x.pt2"])
def test_what_is_no_file(name: str, tiny_whisper: Path, somewhere: Path) -> None:
    for case, make in ODD.items():
        with copy_of(tiny_whisper, somewhere / "model") as folder:
            (folder / name).unlink(missing_ok=True)
            make(folder / name)
            if case == "a folder":
                looked_at(folder)
            else:
                blamed(folder, name)


def test_names_that_move_the_cursor(
    tiny_whisper: Path, somewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with copy_of(tiny_whisper, somewhere / "model") as folder:
        (folder / "\x1b[2J\n[red]x.py").write_text("1")
        (folder / os.fsdecode(b"\xff.py")).write_text("1")
        looked_at(folder)
        assert main(["doctor", "model"]) == 0
        said = capfd.readouterr().out
        assert "\x1b" not in said
        assert r"\x1b[2J\n[red]x.py: is code" in said
        assert main(["doctor", "model", "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["warnings"] == 2


def test_more_files_than_a_model_has(
    tiny_whisper: Path, somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.doctor.folder._MAX_FILES", 50)
    with copy_of(tiny_whisper, somewhere / "model") as folder:
        (folder / "a").mkdir()
        for number in range(60):
            (folder / "a" / f"{number}.txt").touch()
        blamed(folder, ".")


PEAK = """
import re, sys
from pathlib import Path
from exporter import doctor
blamed = [finding.where for _, finding in doctor.examine(sys.argv[1]).found]
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1], *blamed)
"""


def in_a_fresh_process(folder: Path) -> tuple[int, list[str]]:
    """The memory that examining a folder takes, in bytes, and the files that are blamed."""
    command = [sys.executable, "-c", PEAK, str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peak, *blamed = told.split()
    return int(peak) * 1024, blamed


def test_weights_take_no_memory(tiny_whisper: Path, somewhere: Path) -> None:
    """A graph with six gigabytes of weights inside, and as many beside it, none on the disk."""
    size = 6 << 30
    inside = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[size // 4])
    with copy_of(tiny_whisper, somewhere / "model") as folder:
        tensor = inside.SerializeToString() + b"\x4a" + varint(size)
        graph = b"\x2a" + varint(len(tensor) + size) + tensor
        begin = b"\x08\x08\x3a" + varint(len(graph) + size) + graph
        (folder / GRAPH).write_bytes(begin)
        os.truncate(folder / GRAPH, len(begin) + size)
        with (folder / "model.safetensors").open("ab") as file:
            file.truncate(size)
        assert in_a_fresh_process(folder)[0] < 250_000_000


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def test_damaged_files(tiny_whisper: Path, somewhere: Path) -> None:
    sweep(damageable(tiny_whisper, somewhere / "whole"), somewhere / "model", 60)


def test_parts_without_end(somewhere: Path) -> None:
    """Millions of nodes and of fields, each of which would be an object; files share a limit."""
    folder = somewhere / "model"
    folder.mkdir()
    node = field(1, field(1, b"a") * 50)
    (folder / GRAPH).write_bytes(b"\x08\x08" + field(7, node * 20_000))
    (folder / "more.onnx").write_bytes(b"\x08\x08" + b"\x10\x01" * 3_500_000)
    peak, blamed_files = in_a_fresh_process(folder)
    assert peak < 500_000_000
    assert "more.onnx" in blamed_files
