"""Run a Whisper's built graphs in torch, for `generate` and for the decoding in numpy."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from exporter.families.attention import split
from exporter.families.graph import GraphFunction
from exporter.runtime.whisper.engine import Attention, Features, Heads, Scores, Tokens


@dataclass(frozen=True)
class Attended:
    """The logits [1, tokens, vocabulary] of tokens, and what they attend to the audio with.

    That is, by layer, scaled queries [1, tokens, width] and keys [heads, source, head_dim].
    """

    logits: Tensor
    queries: Mapping[int, Tensor]
    keys: Mapping[int, Tensor]


class Decoder(Protocol):
    """A decoder for one kind of cache.

    `encoded` is the output of the encoder's graph, batch first. Rows are hypotheses: row r belongs
    to window r // (rows / windows), and caches of the audio are not repeated for each row.

    Attributes:
        takes_hidden_states: Whether `encoded` is the encoder's hidden states, as in transformers.
    """

    takes_hidden_states: bool

    def start(self) -> Any:
        """Return an empty cache."""
        ...

    def step(self, ids: Tensor, encoded: Tensor, cache: Any) -> Tensor:
        """Return logits [rows, 1 or tokens, vocabulary] of ids [rows, tokens]; advance `cache`."""
        ...

    def attend(self, ids: Tensor, encoded: Tensor, layers: Collection[int]) -> Attended:
        """Decode ids [1, tokens] of the one window in `encoded`, from the first token on."""
        ...

    def expand_beams(self, encoded: Tensor, cache: Any, beams: int) -> Tensor:
        """Repeat every row `beams` times; return `encoded` in the form that `step` then takes."""
        ...

    def release(self, cache: Any) -> None:
        """Release a cache that is no longer needed, for reuse."""
        ...


@dataclass
class Engine:
    """A model's built graphs: functions by name, and the decoder.

    Functions are looked up at every call, so that measurements can replace them. `encoder` is the
    encoder's name; inputs and outputs of all functions are on `device`. `batch` windows are encoded
    at a time: one where each uses all cores, and the activations of several would not fit the CPU's
    caches. A window's rounding then does not depend on the others, either.
    """

    functions: dict[str, GraphFunction]
    encoder: str
    decoder: Decoder
    device: torch.device
    batch: int = 1

    def encode(self, features: Tensor) -> Tensor:
        """Run the encoder on float32 features [windows, mels, frames]."""
        features = features.to(self.device, torch.float32).contiguous()
        encoded = [self._encode(windows) for windows in features.split(self.batch)]
        return encoded[0] if len(encoded) == 1 else torch.cat(encoded)

    def _encode(self, windows: Tensor) -> Tensor:
        return next(iter(self.functions[self.encoder]({"input_features": windows}).values()))

    def step(self, ids: Tensor, encoded: Tensor, cache: Any) -> Tensor:
        """Return the logits [rows, tokens, vocabulary] after each of `ids`; advance `cache`.

        Graphs of earlier releases give those after the last token only: they decode one by one.
        """
        logits = self.decoder.step(ids, encoded, cache)
        if logits.shape[1] < ids.shape[1]:
            cache.crop(-ids.shape[1])
            steps = [self.decoder.step(token, encoded, cache) for token in ids.split(1, 1)]
            logits = torch.cat(steps, 1)
        return logits


class ArrayEngine:
    """An `Engine` on numpy arrays, for the decoding in `exporter.runtime.whisper`.

    That runs on the CPU, so arrays are copied: for each step float32 logits [rows, tokens,
    vocabulary] from the device, and ids [rows, tokens] to it. A search does hundreds of small
    dependent operations, which take less time in numpy than the launches of as many kernels.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def encode(self, features: Features) -> Tensor:
        with torch.inference_mode():
            return self._engine.encode(torch.from_numpy(features))

    def select(self, encoded: Tensor, windows: Sequence[int]) -> Tensor:
        return encoded[[*windows]]

    def start(self, encoded: Tensor) -> "ArrayHypotheses":
        return ArrayHypotheses(self._engine, encoded)

    def attend(self, encoded: Tensor, window: int, ids: Tokens, heads: Heads) -> Attention:
        engine, layers = self._engine, {layer for layer, _ in heads}
        with torch.inference_mode():
            given = torch.from_numpy(ids[None]).to(engine.device)
            found = engine.decoder.attend(given, encoded[window : window + 1], layers)
            queries = {n: split(q, len(found.keys[n]))[0] for n, q in found.queries.items()}
            logits, asked, heard = (
                each.float().cpu().numpy()
                for each in (
                    found.logits[0],
                    torch.stack([queries[layer][head] for layer, head in heads]),
                    torch.stack([found.keys[layer][head].T for layer, head in heads]),
                )
            )
        return Attention(logits, asked, heard)


class ArrayHypotheses:
    """Windows that an engine decodes."""

    def __init__(self, engine: Engine, encoded: Tensor) -> None:
        self.windows = encoded.shape[0]
        self._engine = engine
        self._encoded = encoded
        self._cache = engine.decoder.start()

    def step(self, ids: Tokens) -> Scores:
        with torch.inference_mode():
            given = torch.from_numpy(ids).to(self._engine.device)
            logits = self._engine.step(given, self._encoded, self._cache).float().cpu()
        scores: Scores = logits.numpy()
        return scores

    def expand_beams(self, beams: int) -> None:
        with torch.inference_mode():
            decoder = self._engine.decoder
            self._encoded = decoder.expand_beams(self._encoded, self._cache, beams)

    def reorder(self, rows: Tokens) -> None:
        with torch.inference_mode():
            self._cache.reorder_cache(torch.from_numpy(rows).to(self._engine.device))

    def release(self) -> None:
        self._engine.decoder.release(self._cache)
