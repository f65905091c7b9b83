"""Whisper's graphs in onnxruntime: `encoder_model`, `cross_cache` for a window, `step` for a token.

Caches, ids, positions and logits are bound once: a token writes a few numbers and runs. The
decoder's attention takes several queries only for one row: a prompt is decoded row by row, and with
several windows, each hypothesis has a copy of its window's cache. The hypotheses of a single window
are queries of one row.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from threading import RLock
from typing import Any

import numpy as np

from exporter.runtime.onnx.session import Array, Bound, OpenGraph, Value
from exporter.runtime.whisper.engine import (
    Attention,
    Features,
    Heads,
    Scores,
    Tokens,
    query_name,
    require_queries,
)

ENCODER, CROSS, STEP = GRAPHS = ("encoder_model", "cross_cache", "step")

_OWN_CACHE, _CROSS_CACHE, _SCALE = "own.", "cross.", "_scale"
# Sets of caches that are kept for reuse: those of a prompt, and of its hypotheses.
_SPARE = {_OWN_CACHE: 2, _CROSS_CACHE: 1}


@dataclass(eq=False)
class _Caches:
    """Caches of a number of rows or windows, and the call that rows are bound to."""

    rows: int
    arrays: dict[str, Array]
    kept: _Kept | None = None


@dataclass(eq=False)
class Encoded:
    """Windows that the encoder has heard: their caches."""

    audio: _Caches


@dataclass(frozen=True)
class _Call:
    """A call of `step` for a number of tokens, on the caches of one or all rows."""

    bound: Bound
    ids: Array
    last: Array


@dataclass(frozen=True)
class _Kept:
    """A call of single tokens, and the caches of the audio that it is bound to."""

    call: _Call
    audio: _Caches


class Engine:
    """The open graphs of an artifact: an `exporter.runtime.whisper.engine.Engine`.

    Attributes:
        functions: The graphs by name. They are looked up at every call, so that measurements can
            replace them.
    """

    def __init__(self, graphs: Mapping[str, OpenGraph]) -> None:
        """Take up the open `GRAPHS`, by name."""
        self.functions: dict[str, Any] = dict(graphs)
        self._encoder, self._cross, self._step = (graphs[name] for name in GRAPHS)
        self._inputs, logits = self._step.inputs, self._step.outputs["logits"]
        self._vocabulary = int(logits.shape[-1])
        self._source = int(self._inputs[f"{_CROSS_CACHE}0.key"].shape[2])
        self._lock = RLock()  # a collection of garbage may give back while it is held
        self._spare: dict[str, list[_Caches]] = {_OWN_CACHE: [], _CROSS_CACHE: []}
        ((self._states, states),) = graphs[ENCODER].outputs.items()
        self._hidden = [int(size) for size in states.shape[1:]]
        # Scales of earlier releases' graphs are those of all windows of a call together.
        scales = (name for name in self._inputs if name.endswith(_SCALE))
        self._common = {name for name in scales if not isinstance(self._inputs[name].shape[0], str)}
        # Graphs of earlier releases give the logits of the last token only.
        self._gives_each = isinstance(logits.shape[1], str)

    def encode(self, features: Features) -> Encoded:
        """Run the encoder and compute the caches, window by window.

        Each window uses all cores, its activations stay in their caches, and its rounding does not
        depend on the others.
        """
        windows = np.ascontiguousarray(features, np.float32)
        encoded = self._encoded(len(windows))
        together = len(windows) if self._common else 1
        states = _mapped([together, *self._hidden], np.dtype(np.float32))
        for first in range(0, len(windows), together):
            for row in range(together):
                window = windows[first + row : first + row + 1]
                given = {"input_features": window, self._states: states[row : row + 1]}
                self.functions[ENCODER](self._encoder.bind(given))
            caches = self._rows(encoded.audio.arrays, slice(first, first + together))
            self.functions[CROSS](self._cross.bind({"encoder_hidden_states": states, **caches}))
        return encoded

    def select(self, encoded: Encoded, windows: Sequence[int]) -> Encoded:
        """Return copies of some of the windows."""
        chosen = self._encoded(len(windows))
        for name, array in self._rows(encoded.audio.arrays, [*windows]).items():
            chosen.audio.arrays[name][:] = array
        return chosen

    def _encoded(self, windows: int) -> Encoded:
        """Return windows whose caches are to be written, and are given back in the end."""
        encoded = Encoded(self.taken(_CROSS_CACHE, windows))
        weakref.finalize(encoded, self.give_back, _CROSS_CACHE, encoded.audio)
        return encoded

    def start(self, encoded: Encoded) -> Hypotheses:
        """Return the windows before their first token; the same windows may start again."""
        return Hypotheses(self, encoded)

    def attend(self, encoded: Encoded, window: int, ids: Tokens, heads: Heads) -> Attention:
        """Decode ids [tokens] of one window at once; return the queries and keys of heads."""
        layers = {layer for layer, _ in heads}
        require_queries(layers, self._step.outputs)
        audio = self._rows(encoded.audio.arrays, slice(window, window + 1))
        own = self.taken(_OWN_CACHE, 1)
        call = self._bound(own.arrays | audio, (1, len(ids)), layers)
        call.ids[:] = ids
        call.last[:] = len(ids) - 1
        found = self.functions[STEP](call.bound)
        self.give_back(_OWN_CACHE, own)
        keys = [_keys(audio, layer, head) for layer, head in heads]
        dim = len(keys[0])
        queries = [
            found[query_name(layer)][0, :, dim * head : dim * (head + 1)] for layer, head in heads
        ]
        return Attention(found["logits"][0], np.stack(queries), np.stack(keys))

    def taken(self, prefix: str, rows: int) -> _Caches:
        """Return caches of so many rows: given back ones, with their old contents, or new ones."""
        spare = self._spare[prefix]
        with self._lock:  # other threads may decode, too
            for index, caches in enumerate(spare):
                if caches.rows == rows:
                    return spare.pop(index)
        named = {name: each for name, each in self._inputs.items() if name.startswith(prefix)}
        create = _mapped if prefix == _OWN_CACHE else np.empty
        return _Caches(
            rows, {name: create(_shape(value, rows), value.dtype) for name, value in named.items()}
        )

    def give_back(self, prefix: str, caches: _Caches) -> None:
        """Keep caches for reuse, the latest ones."""
        with self._lock:
            spare = self._spare[prefix]
            spare.append(caches)
            del spare[: -_SPARE[prefix]]

    def run(self, ids: Tokens, own: _Caches, audio: _Caches, length: int) -> Scores:
        """Decode ids [rows, tokens] at positions `length` and on; return logits as the graph."""
        rows, tokens = ids.shape
        if rows == 1 or tokens == 1:
            return self._run(ids, own, audio, length, None)
        logits = [self._run(ids[n : n + 1], own, audio, length, n).copy() for n in range(rows)]
        return np.concatenate(logits)

    def _run(
        self, ids: Tokens, own: _Caches, audio: _Caches, length: int, row: int | None
    ) -> Scores:
        tokens = ids.shape[1]
        if not self._gives_each and tokens > 1:
            each = range(tokens)
            parts = [self._run(ids[:, n : n + 1], own, audio, length + n, row).copy() for n in each]
            return np.concatenate(parts, 1)
        call = self._call(own, audio, tokens, row)
        call.ids[:] = ids
        call.last[:] = length + tokens - 1
        logits: Scores = self.functions[STEP](call.bound)["logits"]
        return logits

    def _call(self, own: _Caches, audio: _Caches, tokens: int, row: int | None) -> _Call:
        """Return a bound call; that of single tokens, of which there are many, is kept."""
        kept = row is None and tokens == 1
        if kept and own.kept is not None and own.kept.audio is audio:
            return own.kept.call
        caches = {**own.arrays, **audio.arrays}
        rows = own.rows
        if row is not None:
            rows, caches = 1, self._rows(caches, slice(row, row + 1))
        call = self._bound(caches, (rows, tokens))
        if kept:
            own.kept = _Kept(call, audio)
        return call

    def _bound(
        self, caches: Mapping[str, Array], shape: tuple[int, int], layers: Collection[int] = ()
    ) -> _Call:
        """Bind a call for ids [rows, tokens], and for the queries of some layers."""
        rows, tokens = shape
        windows = len(caches[f"{_CROSS_CACHE}0.key"])
        ids, last = np.zeros((rows, tokens), np.int64), np.zeros(rows, np.int32)
        arrays: dict[str, Array] = {
            "input_ids": ids,
            "own_last": last,
            "cross_last": np.full(windows, self._source - 1, np.int32),
            "logits": np.empty((rows, tokens, self._vocabulary), np.float32),
            **caches,
        }
        for name in map(query_name, layers):
            width = int(self._step.outputs[name].shape[-1])
            arrays[name] = np.empty((rows, tokens, width), np.float32)
        return _Call(self._step.bind(arrays), ids, last)

    def repeated(self, audio: _Caches, rows: Tokens) -> _Caches:
        """Return copies of windows' caches, one for each row, by the rows' windows."""
        return _Caches(len(rows), self._rows(audio.arrays, rows))

    def _rows(self, caches: Mapping[str, Array], rows: Any) -> dict[str, Array]:
        """Return some rows of caches: views if they are a slice, else copies."""
        return {n: a if n in self._common else a[rows] for n, a in caches.items()}


class Hypotheses:
    """Windows being decoded: an `exporter.runtime.whisper.engine.Hypotheses`."""

    def __init__(self, engine: Engine, encoded: Encoded) -> None:
        self.windows = encoded.audio.rows
        self._engine = engine
        self._encoded = encoded  # whose end gives the audio's caches back
        self._audio = encoded.audio
        self._own = engine.taken(_OWN_CACHE, self.windows)
        self._length = 0

    def step(self, ids: Tokens) -> Scores:
        """Decode ids [rows, tokens]; the logits are valid until the next step."""
        logits = self._engine.run(ids, self._own, self._audio, self._length)
        self._length += ids.shape[1]
        return logits

    def expand_beams(self, beams: int) -> None:
        """Repeat each window's hypothesis; copy only the positions that are written."""
        rows = np.arange(self.windows).repeat(beams)
        before, self._own = self._own, self._engine.taken(_OWN_CACHE, len(rows))
        for name, array in self._own.arrays.items():
            array[:, :, : self._length] = before.arrays[name][rows, :, : self._length]
        self._engine.give_back(_OWN_CACHE, before)
        if self.windows > 1:
            self._audio = self._engine.repeated(self._audio, rows)

    def reorder(self, rows: Tokens) -> None:
        """Copy the positions written so far."""
        for array in self._own.arrays.values():
            array[:, :, : self._length] = array[rows, :, : self._length]

    def release(self) -> None:
        """Give the rows' caches back; those of the audio stay with the windows."""
        if self._audio is not self._encoded.audio:
            self._own.kept = None  # which holds copies for all rows
        self._engine.give_back(_OWN_CACHE, self._own)


def _shape(value: Value, rows: int) -> list[int]:
    """Return the shape of a cache, whose axis without a fixed size has one entry a row."""
    return [rows if isinstance(size, str) else size for size in value.shape]


def _mapped(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return an array that takes memory only where it was written, and gives it back in the end.

    numpy asks for huge pages, of which a few tokens of each head would touch all.
    """
    memory = mmap(-1, math.prod(shape) * dtype.itemsize, MAP_PRIVATE | MAP_ANONYMOUS)
    return np.ndarray(shape, dtype, memory)


def _keys(audio: Mapping[str, Array], layer: int, head: int) -> Array:
    """Return a head's keys [head_dim, source] of the first window, in float32."""
    name = f"{_CROSS_CACHE}{layer}.key"
    keys, scale = audio[name][0, head], audio.get(f"{name}{_SCALE}")
    if scale is not None:
        keys = keys * scale.reshape(-1, keys.shape[1])[head]
    floats: Array = keys.T
    return floats
