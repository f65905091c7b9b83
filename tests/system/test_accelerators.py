"""Cards as the driver tells them, with a driver that stands in for NVIDIA's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.system import accelerators
from tests.support.libcuda import H100, L4, make_driver


def test_cards_are_told_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "LIBCUDA", str(make_driver(tmp_path / "lib", [H100, L4])))
    found = accelerators.cuda_driver()
    assert found is not None
    assert found.cuda == (13, 0)
    assert found.cards == (accelerators.Card(*H100), accelerators.Card(*L4))


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "LIBCUDA", "libno-such-driver.so.1")
    assert accelerators.cuda_driver() is None


def test_a_driver_without_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where CUDA_VISIBLE_DEVICES is empty."""
    library = make_driver(tmp_path / "lib", [], version=12080, init=100)
    monkeypatch.setattr(accelerators, "LIBCUDA", str(library))
    assert accelerators.cuda_driver() == accelerators.Driver((12, 8), ())


def test_a_driver_that_does_not_work_tells_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        accelerators, "LIBCUDA", str(make_driver(tmp_path / "lib", [H100], init=803))
    )
    with pytest.raises(
        accelerators.DriverError, match=r"cuInit: system has unsupported .* \(error 803\)"
    ):
        accelerators.cuda_driver()


def test_machine_tells_its_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_driver(tmp_path / "lib", [H100, L4])
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    command = [sys.executable, "-m", "exporter", "machine"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "driver: for CUDA 13.0" in told
    assert "card: NVIDIA H100 80GB HBM3, 85 GB, compute capability 9.0" in told
    assert "card: NVIDIA L4, 23.6 GB, compute capability 8.9" in told
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    cuda = json.loads(done.stdout)["cuda"]
    assert cuda["version"] == [13, 0]
    assert [card["name"] for card in cuda["cards"]] == [H100[0], L4[0]]


def test_machine_tells_why_a_driver_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_driver(tmp_path / "lib", [H100], init=803)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    command = [sys.executable, "-m", "exporter", "machine"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "driver: libcuda.so.1: cuInit: system has unsupported display driver" in told
    assert "card:" not in told
