"""The fixtures of `tests`, for the sweeps too."""

from tests.conftest import *  # noqa: F403
