"""Describe this machine: CPU features, cores, caches, memory, compiler.

Does not import torch, so that an artifact's needs are checked before any native code is loaded.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporter import __version__
from exporter.errors import MachineError
from exporter.system.environment import passed_on

# The x86-64 psABI levels in the names of /proc/cpuinfo (abm is LZCNT, pni is SSE3).
_LEVELS: dict[str, frozenset[str]] = {
    "x86-64": frozenset({"cmov", "cx8", "fpu", "fxsr", "mmx", "sse", "sse2"}),
    "x86-64-v2": frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    "x86-64-v3": frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}

# Features that decide the speed and exactness of the kernels' multiplications.
KERNEL_FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_int8", "amx_bf16"),
)
MAX_THREADS = 1024  # of a recipe, an artifact or an option; see `thread_limit` for this machine's
# The names by which people buy CPUs, the most demanding first.
_FEATURE_WORDS = {
    "amx_int8": "AMX",
    "amx_bf16": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
}
_KIB = 1024
_MAPPED_BYTES = 1 << 20
# glibc raises its threshold for blocks in mappings of their own, and then keeps freed memory: up to
# twice the peak of a program that goes through large tensors.
FRUGAL: Mapping[str, str] = MappingProxyType({"MALLOC_MMAP_THRESHOLD_": str(_MAPPED_BYTES)})
"""The environment of a process whose large blocks return to the system when they are freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_USUAL_BYTES = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX in glibc, which a threshold rises to


@dataclass(frozen=True)
class Machine:
    """A description for manifests and reports; it names no host and no user."""

    cpu: str
    cores: int
    memory_bytes: int
    features: frozenset[str]

    @property
    def isa(self) -> str:
        """The highest x86-64 level that this CPU has, or the architecture's own name."""
        reached = platform.machine()
        for level, needed in _LEVELS.items():
            if not needed <= self.features:
                break
            reached = level
        return reached

    @property
    def vnni(self) -> bool:
        """True if u8 x s8 products accumulate in 32 bits; without it, they saturate at 16 bits."""
        return bool(self.features & {"avx512_vnni", "avx_vnni"})

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: the ISA and `KERNEL_FEATURES`, not every CPU flag."""
        features = sorted(self.features & set(KERNEL_FEATURES))
        return {**asdict(self), "features": features, "isa": self.isa}


@dataclass(frozen=True)
class Cache:
    """One of the first core's caches, and the number of this process's cores that share it."""

    level: int
    kind: str  # data, instruction or unified
    size_bytes: int
    cores: int


def level_features(level: str) -> frozenset[str]:
    """Return all CPU features that code for an x86-64 level may use.

    Raises:
        MachineError: The level is unknown.
    """
    names = list(_LEVELS)
    if level not in names:
        msg = f"unknown x86-64 level {level!r}: one of {', '.join(names)}"
        raise MachineError(msg)
    return frozenset().union(*(_LEVELS[name] for name in names[: names.index(level) + 1]))


def features_in_words(features: Collection[str]) -> str:
    """Return the one feature that decides which CPUs have all of `features`, like AVX-512 VNNI."""
    known = (words for name, words in _FEATURE_WORDS.items() if name in features)
    return next(known, ", ".join(sorted(features)))


@cache
def describe() -> Machine:
    """Describe the machine this process runs on."""
    fields = _cpuinfo()
    return Machine(
        cpu=fields.get("model name", platform.processor() or platform.machine()),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        features=frozenset(fields.get("flags", fields.get("Features", "")).split()),
    )


def _cpuinfo() -> dict[str, str]:
    """Return the first processor's fields of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition(":")
        if not separator and fields:
            break
        fields[name.strip()] = value.strip()
    return fields


def caches(root: Path = Path("/")) -> list[Cache]:
    """Return the caches of the first core that this process may use; empty if unknown."""
    allowed = os.sched_getaffinity(0)
    folders = root.glob(f"sys/devices/system/cpu/cpu{min(allowed)}/cache/index*")
    rows = []
    for folder in folders:
        try:
            level, kind, size, shared = (
                (folder / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size", "shared_cpu_list")
            )
        except OSError:  # some virtual machines have only a part of these files
            continue
        cores = len(allowed & _listed(shared)) or 1
        rows.append(Cache(int(level), kind.lower(), int(size.rstrip("K")) * _KIB, cores))
    return sorted(rows, key=lambda cache: (cache.level, cache.kind))


def _listed(ranges: str) -> set[int]:
    """Return the numbers of a kernel's list like 0-3,8."""
    ends = [part.partition("-") for part in ranges.split(",") if part]
    return {n for first, _, last in ends for n in range(int(first), int(last or first) + 1)}


def cxx_compiler() -> dict[str, str] | None:
    """Return the C++ compiler that torch would call (CXX, or g++) as `command` and `version`.

    None if there is none.
    """
    command = os.environ.get("CXX", "g++")
    if shutil.which(command) is None:
        return None
    return {"command": command, "version": _first_line_of_version(command)}


@cache
def _first_line_of_version(command: str) -> str:
    asked = [command, "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=passed_on())
    return done.stdout.partition("\n")[0]


def require_features(names: Iterable[str], what: str = "this artifact") -> None:
    """Raise MachineError if the CPU lacks a feature that native code was compiled for."""
    missing = sorted(set(names) - describe().features)
    if missing:
        msg = (
            f"{what} was compiled for CPU features that this machine lacks: {', '.join(missing)}.\n"
            f"This CPU is {describe().cpu} ({describe().isa}); build again with a lower `march`."
        )
        raise MachineError(msg)


def require_threads(compiled: int | None, threads: int, what: str) -> None:
    """Raise MachineError for another number of threads than `compiled` into native code."""
    if compiled not in (None, threads):
        msg = f"{what} was compiled for {compiled} threads, not {threads}: leave --threads out"
        raise MachineError(msg)


def require_cores(threads: int) -> None:
    """Raise MachineError for more threads than cores, which would wait for each other."""
    if threads > describe().cores:
        msg = f"--threads {threads}: this machine has {describe().cores} cores"
        raise MachineError(msg)


def thread_limit() -> int:
    """Return the most threads that a model may use here: several for each core, for containers.

    Every session and library starts as many, so that thousands would bring a machine down.
    """
    return min(MAX_THREADS, max(64, 8 * describe().cores))


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed ones of `packages`, by name."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def installed_versions() -> dict[str, str]:
    """Return the versions of what affects a build's result, this package included, by name."""
    names = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")
    others = versions_of((*names, "onnxruntime", "onnxruntime-gpu"))
    return {"exporter": __version__, **others}


def current_rss_bytes() -> int:
    """Return this process' resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_rss_bytes() -> int:
    """Return this process's peak memory in bytes.

    `ru_maxrss` is not used, because after a fork it starts from the parent's value.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    msg = "/proc/self/status tells no VmHWM: peak memory cannot be measured on this system"
    raise MachineError(msg)


def return_free_memory() -> None:
    """Give memory that was freed, and that the C library keeps, back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Give large blocks that are freed inside the block back to the system at once.

    Afterwards the C library keeps blocks for reuse, as in any program that has freed one of 32 MB:
    whisper-small's encoder in torch takes 0.8 s with it, and 1.4 s without. What the environment
    says of it goes first.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is None or any(name in os.environ for name in FRUGAL):
        yield
        return
    option(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    try:
        yield
    finally:
        option(_M_MMAP_THRESHOLD, _USUAL_BYTES)
        option(_M_TRIM_THRESHOLD, 2 * _USUAL_BYTES)
        return_free_memory()


def memory_available_bytes(root: Path = Path("/")) -> int:
    """Return the bytes that programs can still take: the kernel's estimate, or a cgroup's limit.

    A container's limit is not in /proc/meminfo, and a process that exceeds it is killed.
    """
    for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return max(0, min([int(line.split()[1]) * 1024, *_cgroup_rooms(root)]))
    msg = "/proc/meminfo tells no MemAvailable: free memory cannot be known on this system"
    raise MachineError(msg)


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """Yield the bytes that each memory limit of this process's cgroups (v1 or v2) leaves."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, files = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        here = mount / path.lstrip("/")
        # A limit applies to all groups below. Inside a container the path may be the host's: then
        # the mount itself is the container's group.
        for folder in (here, *here.parents):
            if folder.is_relative_to(mount) and (folder / files[0]).is_file():
                yield from _group_room(folder, *files)


def _group_room(folder: Path, limit: str, usage: str, prefix: str) -> Iterator[int]:
    """Yield a group's limit minus its use without file caches, which the kernel can reclaim.

    Nothing is yielded for a group without numbers, as in some sandboxes.
    """
    try:
        most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
        stat = (folder / "memory.stat").read_text(encoding="ascii").split()
        values = dict(zip(stat[::2], map(int, stat[1::2]), strict=True))
    except (OSError, ValueError):  # "max" is no number
        return
    caches = ("active_file", "inactive_file", "slab_reclaimable")
    yield most - used + sum(values.get(f"{prefix}{name}", 0) for name in caches)


def disk_free_bytes(place: Path) -> int:
    """Return the free disk space in bytes at a place, which need not exist yet."""
    return shutil.disk_usage(_existing(place)).free


def same_disk(one: Path, other: Path) -> bool:
    """Return True if two places, which need not exist yet, are on the same file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(place: Path) -> Path:
    return next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
