"""The interface between Whisper's decoding and what runs an artifact's graphs."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""Log-mel features [windows, mels, frames]."""

Scores = NDArray[np.float32]
Tokens = NDArray[np.int64]


class Hypotheses(Protocol):
    """Windows being decoded, with one or more hypotheses each; row r is of window r // beams.

    Attributes:
        windows: The number of windows.
    """

    windows: int

    def step(self, ids: Tokens) -> Scores:
        """Decode ids [rows, tokens] after those before.

        Returns:
            Logits [rows, tokens, vocabulary] after each of the ids. They are the caller's to
            change, and valid until the next step.
        """
        ...

    def expand_beams(self, beams: int) -> None:
        """Repeat each window's hypothesis `beams` times."""
        ...

    def reorder(self, rows: Tokens) -> None:
        """Replace row r by the former row rows[r]."""
        ...

    def release(self) -> None:
        """Give caches back for reuse; the hypotheses are not used again."""
        ...


class Engine(Protocol):
    """The encoder and the decoder of an artifact."""

    def encode(self, features: Features) -> Any:
        """Run the encoder, window by window; return what `start` takes."""
        ...

    def select(self, encoded: Any, windows: Sequence[int]) -> Any:
        """Return some of the windows that `encode` returned."""
        ...

    def start(self, encoded: Any) -> Hypotheses:
        """Return the windows before their first token; the same windows may start again."""
        ...
