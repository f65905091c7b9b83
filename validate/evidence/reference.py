"""The original's part of a comparison, in a process of its own: its logits, and the simulated ones.

The simulated artifact is the original in float32 with the plan's own numbers, its activations
rounded as the target rounds them: see `exporter.quantization.simulate`. It is run a second time
with features that differ in the fifth digit. Rounding then falls differently, so the difference of
the two runs is what rounding alone does to this model, at its depth and with its scheme.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.artifact import store
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import exhausted
from exporter.families.forcing import Forced
from exporter.formats import audio
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.simulate import Rounding, simulate
from exporter.quantization.weights import Weights
from exporter.runtime.transcript import Audio
from exporter.system.progress import Progress
from exporter.targets import inspection_of
from exporter.targets.inspection import plan_of
from exporter.validate.evidence.cases import Case, cases
from exporter.validate.evidence.ranges import counting, fits
from exporter.validate.evidence.results import Expected, ReferenceRequest
from exporter.validate.evidence.stored import differing_weights
from exporter.validate.measure.model import OpenModel

# Relative, far below what any sounds differ by. Compiled code sums and approximates in other orders
# than the original: its floats differ in the fifth digit. Without rounding there is no such code.
_JITTER = {"rounded": 1e-4, "exact": 1e-5}
NOISE_CASES = 5
OTHERS = 3  # cases that are decoded with the graphs of other loaders
_SEED = 20_240_229
_POSITIONS = 64  # of a module's outputs: enough to tell which one is the first that differs
TEXT_TOKENS = 48  # of a clip: more do not show more


_Input = tuple[Case, Tensor, Tensor]
"""A case, its features and its tokens."""


def write(step_request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write features, tokens and logits of every case: a step for `exporter.system.worker`."""
    request = ReferenceRequest.model_validate(step_request)
    model = OpenModel(request.original, progress)
    return {"expected": _Reference(request, model, progress).write().model_dump(mode="json")}


class _Reference:
    """The original, which becomes the simulated artifact in place, so that memory holds one."""

    def __init__(self, request: ReferenceRequest, opened: OpenModel, progress: Progress) -> None:
        self._request, self._opened, self._progress = request, opened, progress
        self._model = opened.recogniser.model
        self._family = opened.recogniser.family
        self._forcing = self._family.forcing
        self._manifest = store.read_manifest(request.artifact)
        self._plan = plan_of(request.artifact, self._manifest)
        self._inspection = inspection_of(self._manifest.kind)
        self._modules: tuple[str, ...] = ()
        self._checkpoint = open_checkpoint(
            str(request.original.model),
            allow_pickle=request.original.trust,
            language=request.original.decoding.language,
        )

    def write(self) -> Expected:
        prompt = self._forcing.forced_prompt(self._model, self._opened.decoding)
        inputs: list[_Input] = []
        for case in self._cases():
            inputs.append(self._input(case, prompt, inputs[0] if inputs else None))
        with counting(self._model, self._plan.calibrated) as seen:
            for number, (case, features, tokens) in enumerate(inputs):
                self._tell("the original", number, len(inputs))
                self._save(number, "features", features)
                self._save(number, "tokens", tokens)
                self._save(number, "samples", torch.from_numpy(case.samples))
                if case.clip:
                    seen.clip = number
                    self._save(number, "original", self._forced(features, tokens, prompt).logits)
        self._simulate(inputs, prompt)
        return Expected(
            folder=str(self._request.output),
            prompt=len(prompt),
            decoder=bool(self._forcing.most_tokens(self._model)),
            cases=tuple(
                {"name": case.name, "clip": case.clip, "tokens": tokens.shape[1]}
                for case, _, tokens in inputs
            ),
            modules=self._modules,
            weights=tuple(self._weights()),
            ranges=tuple(fits(seen, self._plan, self._manifest.calibration)),
        )

    def _cases(self) -> list[Case]:
        opened = self._opened
        window = self._family.window(opened.recogniser.processor)
        sounds = [audio.head(opened.read(path), window) for path in self._request.clips]
        found = cases(sounds, self._request.names, window, opened.rate)
        decoder = bool(self._forcing.most_tokens(self._model))
        return [case for case in found if decoder or not case.full]

    def _input(self, case: Case, prompt: Sequence[int], first: _Input | None) -> _Input:
        """Return a case with its features, and the prompt with a text.

        The text of a clip is what the original hears; other sounds get that of the first clip.
        """
        processor = self._opened.recogniser.processor
        features = self._forcing.window_features(processor, [case.samples])
        most = self._forcing.most_tokens(self._model)
        if not most:  # without a decoder there is nothing to force
            return case, features, torch.zeros(1, 1, dtype=torch.int64)
        if case.clip or first is None:
            text = heard(self._opened, case.samples)
        else:
            text = first[2][0, len(prompt) :].tolist()
        room = most - len(prompt)
        text = (text * room)[:room] if case.full else text[: min(room, TEXT_TOKENS)]
        return case, features, torch.tensor([[*prompt, *text]])

    def _simulate(self, inputs: Sequence[_Input], prompt: list[int]) -> None:
        """Write the simulated logits and states, with and without rounding of activations."""
        weights = Weights(self._checkpoint, self._plan, self._family.TIED)
        simulation = simulate(self._model, weights, self._plan, self._forcing, self._rounding)
        noisy = _spread(len(inputs), NOISE_CASES)
        random = torch.Generator().manual_seed(_SEED)
        modes = {"rounded": (True, True)}
        if self._inspection.EXACT:
            modes |= {"exact": (False, True), "plain": (False, False)}
        for mode, (simulation.inputs, simulation.caches) in modes.items():
            some = inputs[:OTHERS] if mode == "plain" else inputs
            for number, (_, features, tokens) in enumerate(some):
                self._tell(f"the plan in float ({mode})", number, len(inputs))
                simulation.calls = calls_of(tokens.shape[1], len(prompt))
                expected = self._forced(features, tokens, prompt)
                self._save(number, mode, expected.logits)
                if number not in noisy or mode == "plain":
                    continue
                self._modules = tuple(expected.states)
                shift = torch.randn(features.shape, generator=random)
                shaken = features * (1 + _JITTER[mode] * shift)
                again = self._forced(shaken, tokens, prompt)
                self._save(number, f"{mode}-again", again.logits)
                self._save_states(number, mode, expected, again)

    def _rounding(self, module: str, scheme: IntegerScheme | None) -> Rounding:
        rounding: Rounding = self._inspection.rounding(
            self._manifest,
            scheme,
            graph=self._forcing.static_graph(module),
            once=self._forcing.runs_once(module),
            narrow=self._forcing.keeps_int8(self._plan.quantized),
        )
        return rounding

    def _forced(self, features: Tensor, tokens: Tensor, prompt: Sequence[int]) -> Forced:
        calls = calls_of(tokens.shape[1], len(prompt))
        forced: Forced = self._forcing.forced(self._model, features, tokens, calls)
        return forced

    def _save(self, number: int, name: str, values: Tensor) -> None:
        np.save(place(self._request.output, number, name), values.detach().numpy())

    def _save_states(self, number: int, mode: str, first: Forced, again: Forced) -> None:
        """Write some of what the modules gave, and how far rounding moves it."""
        for module, states in first.states.items():
            path = place(self._request.output, number, f"{mode}-{module}")
            some, moved = sampled(states), sampled(again.states[module])
            noise = np.float64(distance(moved, some))
            np.savez(path.with_suffix(".npz"), states=some.numpy(), noise=noise)

    def _weights(self) -> list[str]:
        self._progress("comparing weights", None)
        found = self._inspection.stored(
            self._request.artifact, self._manifest, self._checkpoint, self._family
        )
        try:
            return differing_weights(found)
        except (ValueError, LookupError, RuntimeError, OSError, AttributeError) as error:
            if exhausted(error):
                raise
            return [f"the weights cannot be read ({str(error)[:200]})"]

    def _tell(self, what: str, number: int, count: int) -> None:
        self._progress(f"decoding given texts with {what}", number / count)


def heard(opened: OpenModel, samples: Audio) -> list[int]:
    """Return the tokens that a model decodes greedily of at most a window, at least one."""
    all_of_it = {"vad": False, "long_form": "sequential", "clip_timestamps": None}
    plain = {"num_beams": 1, "timestamps": False, **all_of_it}
    greedy = opened.decoding.model_copy(update=plain)
    return list(opened.recogniser.decode([samples], greedy)[0].tokens) or [0]


def calls_of(tokens: int, prompt: int) -> list[int]:
    """Return the tokens of each call: the prompt, then one by one."""
    first = min(max(prompt, 1), tokens)
    return [first, *[1] * (tokens - first)]


def place(folder: Path, number: int, name: str) -> Path:
    """Return the file of an array."""
    return folder / f"{number}-{name}.npy"


def sampled(states: Tensor) -> Tensor:
    """Return at most about a hundred positions of states [windows, length, width]."""
    return states[:, :: max(1, states.shape[1] // _POSITIONS)]


def distance(values: Tensor, expected: Tensor) -> float:
    """Return the root mean square difference over the standard deviation of `expected`."""
    spread = float(expected.float().std()) or 1.0
    return float((values.float() - expected.float()).square().mean().sqrt()) / spread


def _spread(count: int, most: int) -> frozenset[int]:
    """Return at most `most` indices, evenly spread over `count`, the first among them."""
    return frozenset(np.linspace(0, count - 1, min(count, most)).astype(int).tolist())
