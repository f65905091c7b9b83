"""What an artifact needs of a GPU, against drivers that stand in for NVIDIA's.

Each is refused before anything of it is opened: these hold nothing that could be.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import exporter
from exporter.artifact import store
from exporter.artifact.manifest import Gpu, Requirements
from exporter.cli import main
from exporter.errors import MachineError, RecipeError
from exporter.system import accelerators
from tests.support import sealed
from tests.support.libcuda import H100, L4, Card, make_driver

A100: Card = ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 85_095_874_560)
GPU = Gpu(capability="9.0", match="exact", cuda="13.0", memory_bytes=5_000_000_000)

Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Install a driver with these cards, for this process and for those of commands.

    Without a call, there is none: the library is an empty file.
    """
    folder = tmp_path / "driver"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setattr(accelerators, "LIBCUDA", str(folder / "libcuda.so.1"))
    folder.mkdir()
    (folder / "libcuda.so.1").touch()

    def install(cards: Sequence[Card] = (), version: int = 13000, init: int = 0) -> None:
        make_driver(folder, cards, version=version, init=init)

    return install


def artifact(folder: Path, gpu: Gpu = GPU, packages: tuple[str, ...] = ()) -> Path:
    """A sealed artifact for CUDA."""
    with store.stage(folder) as staged:
        (staged / "recipe.yaml").write_text(sealed.RECIPE)
        needs = Requirements(packages=packages, device="cuda", gpu=gpu)
        store.seal(staged, sealed.manifest("torch-int8").model_copy(update={"needs": needs}))
        store.publish(staged, folder)
    return folder


def refusal(folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What `exporter.load` and the command say of an artifact that this machine cannot run."""
    with pytest.raises(MachineError) as raised:
        exporter.load(folder)
    told = str(raised.value).replace(accelerators.LIBCUDA, "libcuda.so.1")
    assert 1 <= len(told.splitlines()) <= 3
    assert told.startswith(str(folder))
    assert main(["transcribe", str(folder), "none.wav"]) == 6
    assert " ".join(capfd.readouterr().err.split()) == " ".join(f"error: {told}".split())
    return told.removeprefix(f"{folder} ")


def test_without_a_driver(
    driver: Driver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = refusal(artifact(tmp_path / "a"), capfd)
    assert told.startswith("needs an NVIDIA GPU of compute capability 9.0, and there is no NVIDIA")
    assert "docker run --gpus all" in told


def test_with_a_driver_that_does_not_work(
    driver: Driver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver([H100], init=803)
    told = refusal(artifact(tmp_path / "a"), capfd)
    assert "NVIDIA's driver does not work here.\n" in told
    assert "cuInit: system has unsupported display driver / cuda driver combination" in told
    assert "nvidia-smi" in told


def test_without_a_card(
    driver: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    driver(init=100)
    folder = artifact(tmp_path / "a")
    assert "shows no card.\nSee `nvidia-smi`" in refusal(folder, capfd)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "shows no card.\nCUDA_VISIBLE_DEVICES is '': unset it" in refusal(folder, capfd)


def test_with_an_older_driver(
    driver: Driver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver([H100], version=12080)
    told = refusal(artifact(tmp_path / "a"), capfd)
    assert told.startswith("needs a driver for CUDA 13; the one here is for CUDA 12.8.\nUpdate")


def test_with_another_card(
    driver: Driver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver([L4])
    told = refusal(artifact(tmp_path / "a"), capfd)
    assert told.startswith(
        "needs an NVIDIA GPU of compute capability 9.0; the card here is NVIDIA L4 (compute "
        "capability 8.9).\nBuild it for this card"
    )


def test_with_the_right_card_behind_another(
    driver: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    driver([L4, H100])
    folder = artifact(tmp_path / "a")
    assert refusal(folder, capfd).endswith(
        "\nSet CUDA_VISIBLE_DEVICES=1 to run it on NVIDIA H100 80GB HBM3 (compute capability 9.0)."
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert "\nSet CUDA_VISIBLE_DEVICES=3 to run" in refusal(folder, capfd)


def test_with_too_little_memory(
    driver: Driver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver([L4])
    gpu = Gpu(capability="7.5", match="minimum", cuda="13.0", memory_bytes=24_000_000_000)
    told = refusal(artifact(tmp_path / "a", gpu), capfd)
    assert told.startswith("needs 24 GB of a GPU's memory; NVIDIA L4 has 23.6 GB.\nLoad it on a")


def test_torch_without_cuda(
    driver: Driver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver([H100])
    folder = artifact(tmp_path / "a", packages=("torch",))
    with pytest.raises(MachineError, match=r"^torch .* is built .*\nInstall one for the driver"):
        exporter.load(folder)
    assert main(["transcribe", str(folder), "none.wav"]) == 6


def test_of_another_device_than_it_was_built_for(driver: Driver, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    with pytest.raises(RecipeError, match=r"was built for 'cuda', not for 'cpu'\.\nLeave out"):
        exporter.load(folder, device="cpu")
    with pytest.raises(MachineError, match="there is no NVIDIA driver here"):
        exporter.load(folder, device="cuda")
    on_cpu = sealed.seal(tmp_path / "b", "torch-int8", {})
    with pytest.raises(RecipeError, match=r"was built for 'cpu', not for 'cuda'\.\n.*device: cuda"):
        exporter.load(on_cpu, device="cuda")


def test_an_original_on_a_card_that_is_not_there(driver: Driver, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"^device='cuda' needs an NVIDIA GPU, and there is no"):
        exporter.load_original(tmp_path, device="cuda")


@pytest.mark.parametrize(
    ("capability", "match", "cards"),
    [
        ("9.0", "exact", [(9, 0)]),
        ("8.6", "major", [(8, 6), (8, 9)]),
        ("8.0", "major", [(8, 0), (8, 6), (8, 9)]),
        ("8.9", "minimum", [(8, 9), (9, 0), (12, 0)]),
        ("7.5", "minimum", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)]),
    ],
)
def test_which_cards_run_which_code(
    capability: str, match: accelerators.Match, cards: list[tuple[int, int]]
) -> None:
    gpu = Gpu(capability=capability, match=match, cuda="13.0", memory_bytes=1)
    every = [(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)]
    assert [card for card in every if gpu.as_needs().suits(card)] == cards


def test_a_suitable_card_is_told(driver: Driver) -> None:
    driver([A100, L4], version=13010)
    gpu = Gpu(capability="8.0", match="major", cuda="13.0", memory_bytes=85_095_874_560)
    assert accelerators.require_gpu(gpu.as_needs()) == accelerators.Card(*A100)
    assert [each.name for each in accelerators.devices() if each.device == "cuda"] == [
        A100[0],
        L4[0],
    ]
