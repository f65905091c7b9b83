"""Decode windows with little overhead outside the graphs, if the settings allow it.

transformers' `generate` spends about 8 ms of Python on each token, more than whisper-small's
decoder needs. It is still used for cases that these loops do not support: timestamps, recordings
longer than the window, language detection, and settings that `Rules` does not have.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import Seq2SeqLMOutput

from exporter.families.graph import GraphFunction
from exporter.families.whisper.decoding.generation_rules import Rules, read_rules
from exporter.families.whisper.decoding.search import beam_search, greedy


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

    def expand_beams(self, encoded: Tensor, cache: Any, beams: int) -> Tensor:
        """Repeat every row `beams` times; return `encoded` in the form that `step` then takes."""
        ...

    def release(self, cache: Any) -> None:
        """Release a cache that is no longer needed, for reuse."""
        ...


@dataclass
class Engine:
    """A model's built graphs for the decoding loops: functions by name, and the decoder.

    Functions are looked up at every call, so that measurements can replace them. `encoder` is the
    encoder's name; inputs and outputs of all functions are on `device`.
    """

    functions: dict[str, GraphFunction]
    encoder: str
    decoder: Decoder
    device: torch.device
    _kept: tuple[dict[str, Any], Rules | None] = field(default_factory=lambda: ({}, None))

    def encode(self, features: Tensor) -> Tensor:
        """Run the encoder on float32 features [windows, mels, frames].

        Windows are encoded one by one: each uses all cores, and the activations of several would
        not fit the CPU's caches. Also, a window's rounding then does not depend on the others.
        """
        features = features.to(self.device, torch.float32).contiguous()
        encoded = [self._encode(window) for window in features.split(1)]
        return encoded[0] if len(encoded) == 1 else torch.cat(encoded)

    def _encode(self, window: Tensor) -> Tensor:
        return next(iter(self.functions[self.encoder]({"input_features": window}).values()))

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

    def rules(self, model: Any, settings: GenerationConfig) -> Rules | None:
        """Return the rules of these settings; they are kept while the settings are the same."""
        before, rules = self._kept
        if vars(settings) != before:
            rules = read_rules(model, settings)
            self._kept = copy.deepcopy(vars(settings)), rules
        return rules


class _Windows:
    """Windows that an engine decodes: `search.Hypotheses`.

    The search always runs on the CPU, so this class copies its tensors: for each step, float32
    logits [rows, vocabulary] from the device and ids [rows, tokens] to it. The search does hundreds
    of small dependent operations, which take less time in numpy than the launches of as many
    kernels on another device.
    """

    def __init__(self, engine: Engine, encoded: Tensor, watch: Callable[[Tensor], None] | None):
        self.windows = encoded.shape[0]
        self._decoder = engine.decoder
        self._device = engine.device
        self._encoded = encoded
        self._watch = watch
        self._cache = engine.decoder.start()

    def step(self, ids: Tensor) -> Tensor:
        ids = ids.to(self._device)
        logits = self._decoder.step(ids, self._encoded, self._cache)[:, -1].float().cpu()
        if self._watch is not None:
            self._watch(logits)
        return logits

    def expand_beams(self, beams: int) -> None:
        self._encoded = self._decoder.expand_beams(self._encoded, self._cache, beams)

    def reorder(self, rows: Tensor) -> None:
        self._cache.reorder_cache(rows.to(self._device))

    def release(self) -> None:
        self._decoder.release(self._cache)


def decode(model: Any, features: Tensor, settings: GenerationConfig) -> list[list[int]] | None:
    """Decode windows, by greedy search or with `num_beams` > 1 by beam search.

    The float32 original has no `engine`, so that transformers' own `generate` is the reference of
    comparisons, both of tokens and of time.

    Args:
        model: The model.
        features: Log-mel features, float32 [windows, mels, frames].
        settings: The result of `settings_of`.

    Returns:
        The tokens of each window without prompt and end; None if the model has no `engine` or
        only `generate` supports the request.
    """
    engine: Engine | None = getattr(model, "engine", None)
    if engine is None or settings.return_timestamps:
        return None
    rules, beams = engine.rules(model, settings), settings.num_beams
    if rules is None or _too_few_tokens(model, rules, beams):
        return None
    windows = _Windows(engine, engine.encode(features), _watcher(model))
    try:
        decoded = greedy(windows, rules) if beams == 1 else beam_search(windows, rules, beams)
    finally:
        windows.release()
    return None if any(_splits(row, rules) for row in decoded) else decoded


def _splits(row: list[int], rules: Rules) -> bool:
    """Return whether `generate` would split a window there, and maybe continue from there: rare.

    It does so at timestamps, and takes two added words in a row for such.
    """
    late = [token >= rules.timestamps for token in row]
    timed = any(rules.timestamps <= token < rules.words for token in row)
    return timed or any(one and other for one, other in pairwise(late))


def _too_few_tokens(model: Any, rules: Rules, beams: int) -> bool:
    """Return whether a beam search could run out of tokens to choose from."""
    allowed = model.config.vocab_size - len(rules.never) - len(rules.not_first) - 1
    return bool(allowed < 2 * beams)


def _watcher(model: Any) -> Callable[[Tensor], None] | None:
    """Return a function that runs the model's forward hooks for a step, as `generate` would."""
    hooks = tuple(model._forward_hooks.values())
    if not hooks:
        return None

    def watch(logits: Tensor) -> None:
        for hook in hooks:
            hook(model, (), Seq2SeqLMOutput(logits=logits[:, None]))

    return watch
