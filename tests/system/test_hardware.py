"""This machine: memory and disk that are free, caches, and what follows for artifacts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from exporter.bench import card, microbench
from exporter.cli import machine, main
from exporter.system import hardware
from exporter.system.hardware import Cache, Machine
from exporter.targets import TARGETS, capabilities


def machine_with(root: Path, groups: str, files: dict[str, str]) -> int:
    """The memory available on a machine of 8 GB whose files are these."""
    known = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8000000 kB\n"}
    for name, text in {**known, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return hardware.memory_available_bytes(root)


V1 = "sys/fs/cgroup/memory"
STAT = "anon 5\nactive_file 100\ninactive_file 200\ntotal_active_file 10\ntotal_inactive_file 20\n"
GROUPS: dict[str, tuple[str, dict[str, str], int]] = {
    "no groups": ("", {}, 8_192_000_000),
    "v2 without a limit": (
        "0::/a\n",
        {"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "5\n"},
        8_192_000_000,
    ),
    "v2, limited above": (
        "0::/a/b\n",
        {
            "sys/fs/cgroup/a/memory.max": "5000\n",
            "sys/fs/cgroup/a/memory.current": "1000\n",
            "sys/fs/cgroup/a/memory.stat": STAT,
            "sys/fs/cgroup/a/b/memory.max": "max\n",
        },
        4300,
    ),
    "v1, in a container": (
        "4:memory:/docker/0123\n1:cpu:/docker/0123\n0::/\n",
        {
            f"{V1}/memory.limit_in_bytes": "5000\n",
            f"{V1}/memory.usage_in_bytes": "1000\n",
            f"{V1}/memory.stat": STAT,
        },
        4030,
    ),
    "used up": (
        "0::/\n",
        {
            "sys/fs/cgroup/memory.max": "5000\n",
            "sys/fs/cgroup/memory.current": "6000\n",
            "sys/fs/cgroup/memory.stat": "",
        },
        0,
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_memory_is_what_the_kernel_and_the_control_group_leave(tmp_path: Path, case: str) -> None:
    groups, files, expected = GROUPS[case]
    assert machine_with(tmp_path, groups, files) == expected


def test_this_machine_has_memory_and_disk(tmp_path: Path) -> None:
    assert 0 < hardware.memory_available_bytes() <= hardware.describe().memory_bytes
    assert hardware.disk_free_bytes(tmp_path / "not" / "there") == hardware.disk_free_bytes(
        tmp_path
    )


def test_caches_are_the_first_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {4, 5, 9})
    told = {
        "index0": ("1", "Data", "48K", "4"),
        "index1": ("1", "Instruction", "32K", "4"),
        "index3": ("3", "Unified", "32768K", "0-5,8-9"),
    }
    for index, values in told.items():
        folder = tmp_path / "sys/devices/system/cpu/cpu4/cache" / index
        folder.mkdir(parents=True)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "sys/devices/system/cpu/cpu4/cache/index4").mkdir()  # tells nothing
    assert hardware.caches(tmp_path) == [
        Cache(1, "data", 48 << 10, 1),
        Cache(1, "instruction", 32 << 10, 1),
        Cache(3, "unified", 32 << 20, 3),
    ]
    assert hardware.caches(tmp_path / "nowhere") == []


V3 = hardware.level_features("x86-64-v3")
V4 = hardware.level_features("x86-64-v4")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")


def offered(monkeypatch: pytest.MonkeyPatch, features: frozenset[str]) -> dict[str, Any]:
    """What a machine with these CPU features is told to offer to each kind."""
    monkeypatch.setattr(hardware, "describe", lambda: Machine("a CPU", 8, 1 << 30, features))
    told: dict[str, Any] = capabilities.machine_capabilities()["targets"]
    return told


@pytest.mark.parametrize(
    ("features", "march", "vnni", "bits", "words"),
    [
        (V4 | {"avx512_vnni", "amx_bf16", "avx512_bf16"}, "x86-64-v4", True, 8, "own (amx_bf16)"),
        (V4 | {"avx512_vnni"}, "x86-64-v4", True, 8, "int8 is multiplied by int8"),
        (V4, "x86-64-v4", False, 7, "without avx512_vnni, int8 weights are widened"),
        (V3 | {"avx_vnni"}, "x86-64-v3", False, 8, "bfloat16 is computed as float32"),
        (V3, "x86-64-v3", False, 7, "int8 weights are widened"),
    ],
)
@pytest.mark.usefixtures("no_compiler")
def test_what_follows_from_a_cpu(
    features: frozenset[str],
    march: str,
    vnni: bool,
    bits: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = offered(monkeypatch, features)
    bf16 = march == "x86-64-v4" and "avx512_bf16" in features
    assert told["aoti"]["defaults"] == {"march": march, "vnni": vnni, "bf16": bf16}
    assert words in told["aoti"]["says"]
    assert told["aoti"]["says"].endswith("no C++ compiler to build it")
    assert told["torch-int8"]["activation_bits"] == bits
    assert told["onnx-int8"]["saturates"] == (bits == 7)
    assert ("bits: 7" in told["onnx-int8"]["says"]) == (bits == 7)


@pytest.mark.parametrize("features", [frozenset({"asimddp"}), hardware.level_features("x86-64-v2")])
def test_a_cpu_without_avx2_compiles_nothing(
    features: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = offered(monkeypatch, features)["aoti"]
    assert told["defaults"] is None
    assert told["says"].startswith("cannot be built here: it compiles for x86-64-v3 or x86-64-v4")


def test_machine_tells_facts_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    offered(monkeypatch, V4 | {"avx512_vnni"})
    monkeypatch.setattr(hardware, "caches", lambda: [Cache(1, "data", 48 << 10, 1)])
    assert main(["machine"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:4] == [
        "cpu: a CPU, 8 cores, x86-64-v4",
        "has: avx2 avx512f avx512_vnni",
        "lacks: avx_vnni avx512_bf16 amx_int8 amx_bf16",
        "caches: L1 data 48 KiB for 1 core",
    ]
    assert [line.partition(":")[0] for line in lines[4:]] == ["memory", *TARGETS]
    assert main(["machine", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["features"]["avx512_vnni"] is True
    assert document["targets"]["aoti"]["defaults"]["vnni"] is True
    assert document["devices"] == [{"device": "cpu", "name": "a CPU", "memory_bytes": 1 << 30}]
    assert document["measured"] is None


MEASURED = {
    "threads": 2,
    "memory": {"read_bytes_per_s": 77.04e9, "buffer_bytes": 1 << 30},
    "products": [
        {"rows": 1500, "width": 768, "int8": 9.1e11, "bfloat16": 4.4e11, "float32": 1.23e11}
    ],
    "cards": [],
}


def test_rates_are_told_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(microbench, "measure_fresh", lambda threads, _progress: MEASURED)
    assert main(["machine", "--measure"]) == 0
    assert capfd.readouterr().out.splitlines()[-2:] == [
        "memory read: 77.0 GB/s (1.07 GB in sequence, threads 2)",
        "matrix product [1500, 768] by [768, 768], billion operations per second: "
        "int8 910, bfloat16 440, float32 123",
    ]
    assert main(["machine", "--measure", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["measured"] == MEASURED


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--threads", "1"], 2, "error: --threads goes with --measure\n"),
        (["--measure", "--threads", "9"], 6, "error: --threads 9: this machine has 8 cores"),
        (["--measure", "--threads", "0"], 2, "error: Invalid value for '--threads'"),
    ],
)
def test_threads_that_cannot_be(
    arguments: list[str],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    offered(monkeypatch, V3)
    assert main(["machine", *arguments]) == code
    out, err = capfd.readouterr()
    assert (out, err[: len(told)]) == ("", told)


def test_rates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small and short here: what counts is that every rate is there."""
    monkeypatch.setattr(microbench, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(microbench, "_MEMORY_BUDGET_S", 0.001)
    monkeypatch.setattr(microbench, "_BUDGET_S", 0.001)
    monkeypatch.setattr(microbench, "_ROWS", 32)
    told = microbench.measure({"threads": 1}, lambda _what, _done: None)
    assert told["threads"] == 1
    assert told["memory"]["buffer_bytes"] == 1 << 20
    assert told["memory"]["read_bytes_per_s"] > 0
    assert [each["width"] for each in told["products"]] == [768, 1280]
    assert all(each[t] > 0 for each in told["products"] for t in ("int8", "bfloat16", "float32"))
    assert told["cards"] == card.measure_cards()
    assert list(machine.of_rates(told))
