"""Measuring on a card, with a driver that stands in for NVIDIA's."""

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import store
from exporter.artifact.manifest import Gpu, Requirements
from exporter.bench import card, timing
from exporter.bench import run as benching
from exporter.bench.clock import CardClock, HostClock, clock_of
from exporter.bench.timing import Opened, Request
from exporter.cli import machine, main
from exporter.errors import MachineError
from exporter.system import accelerators, worker
from tests.support import sealed
from tests.support.libcuda import H100, make_driver
from tests.support.rounds import round_

GPU = Gpu(capability="9.0", match="exact", cuda="13.0", memory_bytes=5_000_000_000)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver with one card, opened as the product opens it."""
    library = str(make_driver(tmp_path / "driver", [H100]))
    monkeypatch.setattr(accelerators, "LIBCUDA", library)
    return ctypes.CDLL(library)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "LIBCUDA", "libno-such-driver.so.1")


def test_a_card_is_waited_for_before_the_time_is_taken(driver: Any) -> None:
    clock = clock_of("cuda")
    assert isinstance(clock, CardClock)
    first = clock.now()
    assert driver.waits_of_driver() == 1
    result, seconds = timing.seconds_of(clock, lambda given: given + 1, 2)
    assert (result, driver.waits_of_driver()) == (3, 3)
    assert 0 <= seconds < clock.now() - first


def test_every_call_of_a_graph_is_waited_for(driver: Any) -> None:
    functions: dict[str, Any] = {"step": lambda: 0}
    timing.profile(functions, lambda: [functions["step"]() for _ in range(3)], CardClock())
    assert driver.waits_of_driver() == 2 + 2 * 3


def test_the_memory_of_a_model_is_what_it_added(driver: Any) -> None:
    clock, place = CardClock(), ctypes.c_uint64()
    driver.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(1000))
    model = Opened(recogniser=None, load_s=0.0, clock=clock, idle_bytes=clock.used_bytes())  # type: ignore[arg-type]
    driver.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(234))
    assert clock.used_bytes() == 1234
    assert model.device_memory_bytes() == 234
    driver.cuMemFree_v2(ctypes.c_uint64(1200))  # another process ends
    assert model.device_memory_bytes() == 0


def test_a_cpu_has_no_memory_of_a_card_and_no_driver_is_asked(no_driver: None) -> None:
    clock = clock_of("cpu")
    assert isinstance(clock, HostClock)
    assert clock.used_bytes() is None
    assert clock.now() <= clock.now()
    with pytest.raises(MachineError, match="there is no NVIDIA driver here"):
        clock_of("cuda")


def test_copies_are_timed_by_the_cards_own_events(driver: Any) -> None:
    (measured,) = card.measure_cards()
    assert measured["name"] == H100[0]
    assert measured["copy_bytes_per_s"] == pytest.approx(2 * 1.5e12, rel=1e-3)
    assert accelerators.CardContext().used_bytes() == 0
    assert measured["fp16_per_s"] is None
    rates = {"threads": 2, "memory": {"read_bytes_per_s": 1e9, "buffer_bytes": 1}, "products": []}
    *_, copies, products = machine.of_rates({**rates, "cards": [measured]})
    assert copies == "NVIDIA H100 80GB HBM3, copies: 3000 GB/s, read and written"
    assert products.startswith("NVIDIA H100 80GB HBM3, fp16 products: not measured: torch ")


def test_without_a_card_none_is_measured(no_driver: None) -> None:
    assert card.measure_cards() == []


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one artifact for a CPU and one for CUDA, whose timing answers made-up times."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    for name, device in (("a", "cpu"), ("b", "cuda")):
        folder = tmp_path / "built" / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(sealed.RECIPE)
        gpu = GPU if device == "cuda" else None
        needs = {"needs": Requirements(device=device, gpu=gpu)}
        store.seal(folder, sealed.manifest("torch-int8").model_copy(update=needs))

    def run(_step: str, request: dict[str, Any], *_: Any, **_how: Any) -> dict[str, Any]:
        on_card = Request.model_validate(request).device == "cuda"
        measured = round_((0.5,)).model_copy(update={"first_s": 2.5})
        memory = {"device_memory_bytes": 3_100_000_000} if on_card else {}
        return {"round": measured.model_copy(update=memory).model_dump(mode="json")}

    monkeypatch.setattr(worker, "run", run)
    return tmp_path / "built"


def test_each_artifact_is_timed_on_its_own_device(
    artifacts: Path, driver: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(artifacts), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    first, second = told["rows"]
    assert (first["device"], first["device_memory_bytes"]) == ("cpu", None)
    assert (second["device"], second["device_memory_bytes"]) == ("cuda", 3_100_000_000)
    assert second["first_s"] == 2.5
    assert [each["name"] for each in told["cards"]] == [H100[0]]
    assert main(["bench", str(artifacts)]) == 0
    text = capfd.readouterr().out
    assert "GPU memory" in text
    assert "3.1 GB" in text
    assert "On NVIDIA H100 80GB HBM3 (compute capability 9.0)." in text


def test_of_a_folder_only_those_for_the_device_are_timed(
    artifacts: Path, driver: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for device, name in (("cpu", "a"), ("cuda", "b")):
        assert main(["bench", str(artifacts), "--device", device, "--json"]) == 0
        (row,) = json.loads(capfd.readouterr().out)["rows"]
        assert row["name"] == str(artifacts / name)
    assert main(["bench", str(artifacts / "a"), "--device", "cuda"]) == 2
    assert f"--device cuda: {artifacts / 'a'} was built for 'cpu'" in " ".join(
        capfd.readouterr().err.split()
    )


def test_without_a_card_the_others_are_timed(
    artifacts: Path, no_driver: None, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = benching.bench([artifacts], benching.Workload(runs=1))
    assert first.rounds
    assert isinstance(second.error, MachineError)
    assert main(["bench", str(artifacts)]) == 6
    assert "needs an NVIDIA GPU, and there is no NVIDIA driver" in " ".join(
        capfd.readouterr().err.split()
    )
