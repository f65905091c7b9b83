"""Windows that an engine decodes by itself, each from its own begin to its own end.

Engines of devices that no step may wait for have streams; others are asked for each token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from exporter.runtime.whisper.engine import Engine
from exporter.runtime.whisper.rules import Rules
from exporter.runtime.whisper.search import Found


@dataclass(frozen=True)
class Ask:
    """A window to decode.

    Attributes:
        encoded: What `Engine.encode` returned.
        place: The window among those.
        prompt: Its prompt.
        start: The place of <|startoftranscript|> in that.
    """

    encoded: Any
    place: int
    prompt: Sequence[int]
    start: int


@dataclass(frozen=True)
class Told:
    """The text of a window.

    Attributes:
        key: What `Stream.add` returned for it.
        found: The text, with the sum of its tokens' log-probabilities.
        no_speech: The probability of a token after <|startoftranscript|>, if one was asked for.
    """

    key: int
    found: Found
    no_speech: float | None


class Stream(Protocol):
    """Rows that are decoded greedily, each with a window of its own.

    Attributes:
        free: The windows that can be added now.
        running: The windows that are being decoded.
    """

    @property
    def free(self) -> int: ...

    @property
    def running(self) -> int: ...

    def add(self, windows: Sequence[Ask]) -> list[int]:
        """Begin to decode windows, at most `free`; return a key for each."""
        ...

    def advance(self) -> list[Told]:
        """Go on for some tokens, and return the windows that have ended before."""
        ...

    def release(self) -> None:
        """Give caches back for reuse; the stream is not used again."""
        ...


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that has streams.

    Attributes:
        rows: The most rows that it decodes well at a time.
    """

    @property
    def rows(self) -> int: ...

    def follows(self, rules: Rules) -> bool:
        """Return whether a stream can follow the rules."""
        ...

    def stream(self, rules: Rules, rows: int, no_speech: int | None) -> Stream:
        """Return a stream.

        Args:
            rules: What may follow.
            rows: The most windows at a time; the engine may take fewer.
            no_speech: A token whose probability is asked for.
        """
        ...
