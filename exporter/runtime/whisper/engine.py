"""The interface between Whisper's decoding and what runs an artifact's graphs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.errors import RecipeError

Features = NDArray[np.float32]
"""Log-mel features [windows, mels, frames]."""

Scores = NDArray[np.float32]
Tokens = NDArray[np.int64]

Heads = Sequence[tuple[int, int]]
"""Heads of the decoder's attention to the audio: their layers, and their places in these."""


@dataclass(frozen=True)
class Attention:
    """What given tokens attend to the audio with, in float32.

    Attributes:
        logits: The logits after each token [tokens, vocabulary].
        queries: Scaled queries [heads, tokens, head_dim].
        keys: The audio's keys [heads, head_dim, source].
    """

    logits: Scores
    queries: NDArray[np.float32]
    keys: NDArray[np.float32]


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

    def attend(self, encoded: Any, window: int, ids: Tokens, heads: Heads) -> Attention:
        """Decode given tokens of one window at once.

        Args:
            encoded: What `encode` returned.
            window: The window among those.
            ids: The tokens from the first one on, int64 [tokens].
            heads: The heads whose queries and keys are returned.

        Raises:
            RecipeError: The graphs do not give queries.
        """
        ...


def query_name(layer: int) -> str:
    """Return the output of the decoder's graph that has a layer's queries."""
    return f"cross.{layer}.query"


def require_queries(layers: Collection[int], outputs: Collection[str]) -> None:
    """Raise RecipeError if a decoder's graph has no output for the queries of a layer."""
    if not all(query_name(layer) in outputs for layer in layers):
        msg = (
            "an earlier release built this artifact: its graphs do not give what times of words "
            "are computed from.\nBuild it again with --force, or leave word_timestamps out."
        )
        raise RecipeError(msg)
