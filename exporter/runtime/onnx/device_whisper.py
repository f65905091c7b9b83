"""Whisper's graphs in onnxruntime on a device: its caches never leave the device's memory.

A token writes its number and its place to the device, runs `step`, and reads the logits. All arrays
of such a call stay where they are, so that it is captured as a CUDA graph and replayed. There is
one graph for each pair of a set of caches of the tokens and of the audio; as sets are used again,
these are few.

Several queries of several rows are refused by the attention of the decoder: prompts are decoded row
by row. A beam search has two sets of caches for its rows, and copies one to the other when they
change their places.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np

from exporter.runtime.onnx.buffers import Buffer, Memory
from exporter.runtime.onnx.session import Array, OpenGraph
from exporter.runtime.whisper.engine import (
    Attention,
    Features,
    Heads,
    Scores,
    Tokens,
    query_name,
    require_queries,
)

ENCODER, CROSS, STEP, GATHER = GRAPHS = ("encoder_model", "cross_cache", "step", "gather")

_OWN, _AUDIO = "own", "cross"
_LEAVES = ("key", "value")
# Sets of caches that are kept for reuse: of each number of rows of a beam search two.
_SPARE = {_OWN: 4, _AUDIO: 2}
# A captured call keeps some memory for as long as its session is open.
_MOST_CAPTURED = 32
_UNCAPTURED = -1


@dataclass(eq=False)
class _Caches:
    """Caches [2 * layers, rows, heads, length, head_dim], keys of a layer before its values."""

    kind: str
    rows: int
    whole: Buffer
    calls: dict[_Caches, _Call] = field(default_factory=dict)

    def named(self, first: int = 0, last: int | None = None) -> dict[str, Buffer]:
        """Return the caches of some rows by the names of the graph's inputs."""
        rows = self.rows if last is None else last
        return {
            f"{self.kind}.{index // 2}.{_LEAVES[index % 2]}": self.whole.entry(index).entries(
                first, rows
            )
            for index in range(self.whole.shape[0])
        }


@dataclass(eq=False)
class Encoded:
    """Windows that the encoder has heard: their caches."""

    audio: _Caches


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of `step`, and its small arrays."""

    bound: Any
    ids: Buffer
    positions: Buffer
    last: Buffer
    results: Mapping[str, Buffer]


class Engine:
    """The open graphs of an artifact: an `exporter.runtime.whisper.engine.Engine`.

    Attributes:
        functions: The graphs by name. They are looked up at every call, so that measurements can
            replace them.
    """

    def __init__(self, graphs: Mapping[str, OpenGraph], memory: Memory) -> None:
        """Take up the open `GRAPHS`, by name, and run each once."""
        self.functions: dict[str, Any] = dict(graphs)
        self._graphs, self._memory = graphs, memory
        self._inputs, self._outputs = graphs[STEP].inputs, graphs[STEP].outputs
        self._vocabulary = int(self._outputs["logits"].shape[-1])
        self._layers = sum(name.startswith(f"{_OWN}.") for name in self._inputs) // 2
        self._lock = RLock()  # a collection of garbage may give back while it is held
        self._spare: dict[str, list[_Caches]] = {_OWN: [], _AUDIO: []}
        self._captured = 0
        ((given, features),) = graphs[ENCODER].inputs.items()
        ((found, states),) = graphs[ENCODER].outputs.items()
        self._features = memory.empty((1, *map(int, features.shape[1:])), features.dtype)
        self._states = memory.empty((1, *map(int, states.shape[1:])), states.dtype)
        placed = {given: self._features, found: self._states}
        self._encoding = graphs[ENCODER].bind(placed, memory.bind, 1)
        self._warm_up()

    def _warm_up(self) -> None:
        """Run what a first window and its tokens run, so that it is captured when it comes."""
        silence = np.zeros(self._features.shape, np.float32)
        hypotheses = self.start(self.encode(silence))
        for tokens in (2, 1, 1):
            hypotheses.step(np.zeros((1, tokens), np.int64))
        hypotheses.release()

    def encode(self, features: Features) -> Encoded:
        """Run the encoder and compute the caches, window by window."""
        encoded = self._encoded(len(features))
        for index in range(len(features)):
            caches = encoded.audio.named(index, index + 1)
            with self._lock:
                self._memory.write(self._features, features[index : index + 1])
                self.functions[ENCODER](self._encoding)
                given = {"encoder_hidden_states": self._states, **caches}
                self.functions[CROSS](self._graphs[CROSS].bind(given, self._memory.bind))
        return encoded

    def select(self, encoded: Encoded, windows: Sequence[int]) -> Encoded:
        """Return copies of some of the windows."""
        chosen = self._encoded(len(windows))
        self.copy_rows(encoded.audio, chosen.audio, np.array(windows, np.int64))
        return chosen

    def _encoded(self, windows: int) -> Encoded:
        """Return windows whose caches are to be written, and are given back in the end."""
        encoded = Encoded(self.taken(_AUDIO, windows))
        weakref.finalize(encoded, self.give_back, encoded.audio)
        return encoded

    def start(self, encoded: Encoded) -> Hypotheses:
        """Return the windows before their first token; the same windows may start again."""
        return Hypotheses(self, encoded)

    def attend(self, encoded: Encoded, window: int, ids: Tokens, heads: Heads) -> Attention:
        """Decode ids [tokens] of one window at once; return the queries and keys of heads."""
        layers = {layer for layer, _ in heads}
        require_queries(layers, self._outputs)
        with self._lock:
            own = self.taken(_OWN, 1)
            caches = own.named() | encoded.audio.named(window, window + 1)
            call = self._call(caches, (1, len(ids)), layers=layers)
            logits = self._run(call, ids[None], 0)
            found = {n: self._memory.read(call.results[query_name(n)])[0] for n in layers}
            keys = {layer: self._keys(encoded.audio, layer, window) for layer in layers}
            self.give_back(own)
        dim = int(self._inputs[f"{_OWN}.0.key"].shape[-1])
        asked = [found[layer][:, dim * head : dim * (head + 1)] for layer, head in heads]
        return Attention(
            logits[0],
            np.stack(asked).astype(np.float32),
            np.stack([keys[layer][head].T for layer, head in heads]).astype(np.float32),
        )

    def _keys(self, audio: _Caches, layer: int, window: int) -> Array:
        """Return a layer's keys [heads, source, head_dim] of one window."""
        shape = (1, 1, *audio.whole.shape[2:])
        copied = self._memory.empty(shape, audio.whole.dtype)
        index = 2 * layer
        self._gather(audio.whole.entries(index, index + 1), copied, np.array([window], np.int64))
        keys: Array = self._memory.read(copied)[0, 0]
        return keys

    def taken(self, kind: str, rows: int) -> _Caches:
        """Return caches of so many rows: given back ones, with their old contents, or new ones."""
        spare = self._spare[kind]
        with self._lock:  # a device's memory cannot be allocated while another thread captures
            for index in reversed(range(len(spare))):
                if spare[index].rows == rows:
                    return spare.pop(index)
            value = self._inputs[f"{kind}.0.key"]
            shape = (2 * self._layers, rows, *map(int, value.shape[1:]))
            # What was never written may be multiplied by a probability of 0: it must be finite.
            return _Caches(kind, rows, self._memory.zeros(shape, value.dtype))

    def give_back(self, caches: _Caches) -> None:
        """Keep caches for reuse, the latest ones of each number of rows."""
        with self._lock:
            spare = self._spare[caches.kind]
            spare.append(caches)
            for dropped in spare[: -_SPARE[caches.kind]]:
                spare.remove(dropped)
                dropped.calls.clear()
                for others in self._spare.values():
                    for each in others:
                        each.calls.pop(dropped, None)

    def copy_rows(self, source: _Caches, target: _Caches, rows: Tokens) -> None:
        """Copy rows of caches into others, whole."""
        with self._lock:
            self._gather(source.whole, target.whole, rows)

    def _gather(self, source: Buffer, target: Buffer, rows: Tokens) -> None:
        chosen = self._memory.empty(rows.shape, np.dtype(np.int64))
        self._memory.write(chosen, rows)
        given = {"caches": source, "rows": chosen, "chosen": target}
        self.functions[GATHER](self._graphs[GATHER].bind(given, self._memory.bind))

    def run(self, ids: Tokens, own: _Caches, audio: _Caches, length: int) -> Scores:
        """Decode ids [rows, tokens] at positions `length` and on; return float32 logits."""
        rows, tokens = ids.shape
        with self._lock:
            if tokens == 1:
                return self._run(self._kept(own, audio), ids, length)
            shared = audio.rows < rows  # of a single window
            logits = []
            for row in range(rows):
                heard = audio.named() if shared else audio.named(row, row + 1)
                call = self._call(own.named(row, row + 1) | heard, (1, tokens))
                logits.append(self._run(call, ids[row : row + 1], length))
            return logits[0] if rows == 1 else np.concatenate(logits)

    def _run(self, call: _Call, ids: Tokens, length: int) -> Scores:
        memory, tokens = self._memory, ids.shape[1]
        memory.write(call.ids, ids)
        memory.write(call.positions, np.arange(length, length + tokens))
        memory.write(call.last, np.full(len(ids), length + tokens - 1, np.int32))
        self.functions[STEP](call.bound)
        scores: Scores = memory.read(call.results["logits"])
        return scores

    def _kept(self, own: _Caches, audio: _Caches) -> _Call:
        """Return the call of single tokens on a pair of sets, which is captured."""
        if audio not in own.calls:
            graph = _UNCAPTURED
            if self._captured < _MOST_CAPTURED:
                self._captured += 1
                graph = self._captured
            caches = own.named() | audio.named()
            own.calls[audio] = self._call(caches, (own.rows, 1), graph=graph)
        return own.calls[audio]

    def _call(
        self,
        caches: Mapping[str, Buffer],
        shape: tuple[int, int],
        *,
        layers: Collection[int] = (),
        graph: int = _UNCAPTURED,
    ) -> _Call:
        """Bind a call for ids [rows, tokens], and for the queries of some layers."""
        rows, tokens = shape
        create, wide, narrow = self._memory.empty, np.dtype(np.int64), np.dtype(np.int32)
        ids, positions, last = (
            create((rows, tokens), wide),
            create((tokens,), wide),
            create((rows,), narrow),
        )
        results = {"logits": create((rows, tokens, self._vocabulary), np.dtype(np.float32))}
        for name in map(query_name, layers):
            value = self._outputs[name]
            results[name] = create((rows, tokens, int(value.shape[-1])), value.dtype)
        placed = {"input_ids": ids, "positions": positions, "last": last, **caches, **results}
        bound = self._graphs[STEP].bind(placed, self._memory.bind, graph)
        return _Call(bound, ids, positions, last, results)


class Hypotheses:
    """Windows being decoded: an `exporter.runtime.whisper.engine.Hypotheses`."""

    def __init__(self, engine: Engine, encoded: Encoded) -> None:
        self.windows = encoded.audio.rows
        self._engine = engine
        self._encoded = encoded  # whose end gives the audio's caches back
        self._audio = encoded.audio
        self._own = engine.taken(_OWN, self.windows)
        self._length = 0

    def step(self, ids: Tokens) -> Scores:
        """Decode ids [rows, tokens]; the logits are a copy."""
        logits = self._engine.run(ids, self._own, self._audio, self._length)
        self._length += ids.shape[1]
        return logits

    def expand_beams(self, beams: int) -> None:
        """Repeat each window's hypothesis, and of several windows their caches."""
        rows = np.arange(self.windows).repeat(beams)
        self._copy(rows)
        if self.windows > 1:
            repeated = self._engine.taken(_AUDIO, len(rows))
            self._engine.copy_rows(self._audio, repeated, rows)
            self._audio = repeated

    def reorder(self, rows: Tokens) -> None:
        """Copy the rows to the other set of caches."""
        if not np.array_equal(rows, np.arange(len(rows))):
            self._copy(rows)

    def _copy(self, rows: Tokens) -> None:
        before, self._own = self._own, self._engine.taken(_OWN, len(rows))
        self._engine.copy_rows(before, self._own, rows)
        self._engine.give_back(before)

    def release(self) -> None:
        """Give the rows' caches back; those of the audio stay with the windows."""
        self._engine.give_back(self._own)
        if self._audio is not self._encoded.audio:
            self._engine.give_back(self._audio)
