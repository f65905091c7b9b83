"""Memory and disk that are free: the kernel's own figure, and a control group's limit below it."""

from pathlib import Path

import pytest

from exporter import machine


def machine_with(root: Path, groups: str, files: dict[str, str]) -> int:
    """The memory available on a machine of 8 GB whose files are these."""
    known = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8000000 kB\n"}
    for name, text in {**known, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return machine.memory_available_bytes(root)


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
    assert 0 < machine.memory_available_bytes() <= machine.describe().memory_bytes
    assert machine.disk_free_bytes(tmp_path / "not" / "there") == machine.disk_free_bytes(tmp_path)
