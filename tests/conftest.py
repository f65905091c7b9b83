"""Fixtures that more than one test file uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, and no clock: a busy machine must not fail a test.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What these tests trace and compile is kept for these tests, and for nobody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper checkpoint folder of toy size; treat it as read-only."""
    from tests.tiny import make_whisper

    return make_whisper(tmp_path_factory.mktemp("checkpoints") / "tiny-whisper")


@pytest.fixture(scope="session")
def english_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float16, English only, of another depth, width and window; read-only too."""
    from tests.tiny import make_whisper

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
