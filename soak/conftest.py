"""The fixtures of `tests`, for the sweeps too."""

from tests.conftest import (
    merged_export,
    optimum_export,
    own_places,
    repository,
    tiny_whisper,
    windowed_whisper,
)

__all__ = [
    "merged_export",
    "optimum_export",
    "own_places",
    "repository",
    "tiny_whisper",
    "windowed_whisper",
]
