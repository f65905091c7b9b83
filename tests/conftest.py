"""Fixtures that more than one test file uses."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from exporter import cli
from tests.support.corruption import Build
from tests.support.in_process import steps_in_process
from tests.support.watched import connections, memory_meter

if TYPE_CHECKING:
    from tests.support.faults import Server
    from tests.support.hub import Hub

# The same examples in every run, and no clock: a busy machine must not fail a test.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands under test: a shell's background ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of optimum's own exports, as others that need optimum mark themselves."""
    for item in items:
        if "optimum_export" in getattr(item, "fixturenames", ()):
            item.add_marker("optimum")


@pytest.fixture(scope="session", autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What these tests compile and build is kept, and noted, for them and for nobody else.

    What one worker has compiled serves the others too.
    """
    worker = tmp_path_factory.getbasetemp()
    shared = worker.parent if "PYTEST_XDIST_WORKER" in os.environ else worker
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTER_CACHE", str(shared / "cache"))
        patch.setenv("EXPORTER_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setenv("EXPORTER_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for configuration without a keyring yet; nothing was built here either."""
    monkeypatch.setenv("EXPORTER_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("EXPORTER_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture(scope="module")
def server() -> Iterator["Server"]:
    """A process that runs our commands, each in a fork of its own."""
    from tests.support.faults import serving

    with serving() as made:
        yield made


@pytest.fixture
def steps_here() -> Iterator[None]:
    """The steps of a command run in this process."""
    with steps_in_process():
        yield


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a key that signs, and of its public half."""
    from tests.support.signed import make_keys

    return make_keys(tmp_path, "maker")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper checkpoint folder of toy size; treat it as read-only."""
    from tests.support.tiny import make_whisper

    return make_whisper(tmp_path_factory.mktemp("checkpoints") / "tiny-whisper")


@pytest.fixture(scope="session")
def english_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float16, English only, of another depth, width and window; read-only too."""
    from tests.support.tiny import make_whisper

    return make_whisper(
        tmp_path_factory.mktemp("checkpoints") / "english-whisper",
        english_only=True,
        window_s=6,
        width=96,
        heads=3,
        encoder_layers=1,
        decoder_layers=3,
        max_tokens=80,
        dtype="float16",
    )


@pytest.fixture(scope="session")
def windowed_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with Whisper's own window, which other tools take for granted; read-only."""
    from tests.support.tiny import make_whisper

    return make_whisper(tmp_path_factory.mktemp("checkpoints") / "windowed", window_s=30)


@pytest.fixture(scope="session")
def optimum_export(windowed_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optimum's export with all three decoders, as its command leaves it; read-only."""
    from tests.support.optimum import export_with_optimum

    return export_with_optimum(windowed_whisper, tmp_path_factory.mktemp("exports") / "optimum")


@pytest.fixture(scope="session")
def merged_export(optimum_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the two decoders that the merged one is made of; read-only."""
    ignored = shutil.ignore_patterns("decoder_model.onnx", "decoder_with_past_model.onnx")
    merged = tmp_path_factory.mktemp("exports") / "merged"
    return Path(shutil.copytree(optimum_export, merged, ignore=ignored))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a folder, to be broken."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))


HARMLESS = "name: tiny\ncheckpoint: checkpoint\ntargets:\n  - kind: torch-int8\n"
Refused = Callable[..., str]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good checkpoint beside a good recipe, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(HARMLESS)
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Plan a build, which must fail with one error, and nothing run or written."""

    def running(code: int, *options: str) -> str:
        capfd.readouterr()
        found = cli.main(["build", "recipe.yaml", "--dry-run", *options])
        error = capfd.readouterr().err.strip()
        assert found == code, error
        assert 1 <= len(error.splitlines()) <= 3, error
        assert all(line.isprintable() for line in error.splitlines()), repr(error)
        assert "Traceback" not in error
        assert not (tmp_path / "canary").exists()
        assert not (tmp_path / "artifacts").exists()
        return error

    return running


@pytest.fixture
def harmless(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """A hostile case, which connects to nobody and takes little memory."""
    held = memory_meter()
    with connections() as tried:
        yield
    assert tried == []
    assert held() < 1_500_000_000
    record_property("promise", "P7")
    record_property("cases", 1)


@pytest.fixture
def no_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an artifact gets as far as what would run it."""
    import onnxruntime
    import torch

    monkeypatch.setattr(torch._C, "_aoti", None)
    monkeypatch.setattr(os, "memfd_create", None)  # where `runtime.aoti` puts libraries
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Hub"]:
    """A Hub that can be written to, an empty cache, the right token, and no waiting."""
    from huggingface_hub import constants, file_download

    from exporter.hub import client
    from tests.support.hub import serving

    token, sleep = "hf_abcdefghijklmnopqrstuvwxyz0123456789", time.sleep
    with serving(token, part_size=65_536) as hub:
        files = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        for module in (constants, file_download):  # below release 1 the latter has its own
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", files, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.001)))
        monkeypatch.setattr(client, "PAUSES_S", (0.0, 0.0, 0.0))
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setenv("HF_TOKEN", token)
        yield hub


@pytest.fixture
def build_recipe(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    steps_here: None,
) -> Build:
    """Build the recipe in the working folder; give the exit code and what was told."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(HARMLESS)

    def running() -> tuple[int, str]:
        capfd.readouterr()
        code = cli.main(["build", "recipe.yaml"])
        return code, capfd.readouterr().err.strip()

    return running
