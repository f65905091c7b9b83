"""Artifacts that earlier releases built."""

from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
