"""Our Triton kernels, without a GPU: what they compute, and that each compiles for many cards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cuda.offline_kernels import (
    CAPABILITIES,
    CASES,
    MOST_REGISTERS,
    SHARED_BYTES,
    compiled,
)

pytestmark = pytest.mark.slow

TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "int8": 2e-3}


@pytest.fixture(scope="module")
def differences(repository: Path) -> dict[str, float]:
    """The largest difference of each case from the operator's own definition."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.interpreted_kernels"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kernel", ["cached", "audio", "product"])
def test_kernels_compute_what_their_operators_mean(
    kernel: str, differences: dict[str, float]
) -> None:
    """For odd rows, heads, lengths, positions, windows, ancestors, groups and types."""
    own = {name: value for name, value in differences.items() if name.startswith(kernel)}
    assert len(own) >= 10
    assert {name for name, value in own.items() if not value < TOLERANCE[name.split()[1]]} == set()


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles_for_a_card_and_spills_nothing(capability: int) -> None:
    for name, case in CASES.items():
        taken = compiled(case, capability)
        assert taken.registers <= MOST_REGISTERS, name
        assert taken.shared <= SHARED_BYTES[capability], name
        assert (taken.local, taken.stack) == (0, 0), name
