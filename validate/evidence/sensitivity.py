"""How much each group of modules, quantized alone, changes what the original computes.

The original decodes its own text in float32 ("teacher-forced"), then again with one group
simulated: weights dequantized by the quantizer, and inputs rounded as the target rounds them. The
distance is that of the next tokens' distributions. A model without a decoder has nothing to force:
there it is the distance of each frame's distribution. Word errors are too coarse to rank groups: of
100 clips, one word is 0.1 points.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporter.artifact.evidence import GroupEffect
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.formats import audio
from exporter.quantization.modules import replace_module
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.simulate import Rounding, simulate
from exporter.quantization.weights import Weights
from exporter.system.progress import Progress
from exporter.targets import inspection_of
from exporter.validate.evidence.examine import agreement
from exporter.validate.evidence.reference import TEXT_TOKENS, calls_of, heard
from exporter.validate.evidence.results import SensitivityRequest, Survey
from exporter.validate.measure.model import OpenModel


def measure(step_request: dict[str, Any], progress: Progress) -> Iterator[dict[str, Any]]:
    """Yield a survey, then the effect of each group: a step for `exporter.system.worker`."""
    request = SensitivityRequest.model_validate(step_request)
    measuring = _Sensitivity(request, OpenModel(request.original, progress), progress)
    survey = measuring.survey()
    yield {"survey": survey.model_dump(mode="json")}
    needed = len(request.groups) * len(request.clips) * survey.forward_s
    if request.limit_s is None or needed <= request.limit_s:
        for name, modules in request.groups.items():
            yield {"effect": measuring.effect(name, modules).model_dump(mode="json")}


class _Sensitivity:
    """The open original, of which one group at a time is simulated and put back."""

    def __init__(self, request: SensitivityRequest, opened: OpenModel, progress: Progress) -> None:
        self._request, self._opened, self._progress = request, opened, progress
        self._model, self._family = opened.recogniser.model, opened.recogniser.family
        self._forcing = self._family.forcing
        self._prompt = self._forcing.forced_prompt(self._model, opened.decoding)
        self._checkpoint = open_checkpoint(
            str(request.original.model),
            allow_pickle=request.original.trust,
            language=request.original.decoding.language,
        )
        self._inputs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._done = 0

    def survey(self) -> Survey:
        """Decode every clip and keep its logits."""
        transcribe, forward, tokens, rows = [], [], [], dict[str, float]()
        for number, path in enumerate(self._request.clips):
            self._progress("the original hears the clips", number / len(self._request.clips))
            sound = audio.head(self._opened.read(path), self._opened.window)
            start = time.perf_counter()
            self._opened.recogniser.decode([sound], self._opened.decoding)
            transcribe.append(time.perf_counter() - start)
            features, given = self._given(sound)
            with self._counting(rows):
                start = time.perf_counter()
                logits = self._forced(features, given)
                forward.append(time.perf_counter() - start)
            tokens.append(given.shape[1])
            self._inputs.append((features, given, logits))
        count = len(self._inputs)
        return Survey(
            transcribe_s=float(np.mean(transcribe)),
            forward_s=float(np.median(forward)),
            tokens=float(np.mean(tokens)),
            rows={name: total / count for name, total in rows.items()},
            frames=not self._forcing.most_tokens(self._model),
        )

    def effect(self, name: str, modules: Sequence[str]) -> GroupEffect:
        """Quantize a group alone and compare the next tokens with the original's."""
        plan = QuantizationPlan.from_data(self._request.plan).limited_to(modules)
        divergence: list[float] = []
        same: list[bool] = []
        with self._simulated(plan) as simulation:
            for features, given, original in self._inputs:
                whole = len(self._request.groups) * len(self._inputs)
                self._progress(f"{name}, quantized alone", self._done / whole)
                simulation.calls = calls_of(given.shape[1], len(self._prompt))
                kl, top1 = agreement(original, self._forced(features, given))
                divergence += kl
                same += top1
                self._done += 1
        return GroupEffect(
            name=name,
            modules=tuple(modules),
            kl_mean=float(np.mean(divergence)),
            top1=float(np.mean(same)),
        )

    def _given(self, sound: Any) -> tuple[Tensor, Tensor]:
        """Return a clip's features, and the prompt with the text that the original hears."""
        features = self._forcing.window_features(self._opened.recogniser.processor, [sound])
        most = self._forcing.most_tokens(self._model)
        if not most:  # without a decoder there is nothing to force
            return features, torch.zeros(1, 1, dtype=torch.int64)
        room = min(most - len(self._prompt), TEXT_TOKENS)
        return features, torch.tensor([[*self._prompt, *heard(self._opened, sound)[:room]]])

    def _forced(self, features: Tensor, tokens: Tensor) -> Tensor:
        calls = calls_of(tokens.shape[1], len(self._prompt))
        logits: Tensor = self._forcing.forced(self._model, features, tokens, calls).logits
        return logits

    @contextmanager
    def _simulated(self, plan: QuantizationPlan) -> Iterator[Any]:
        """Simulate the modules of a plan in the original, and put its own back."""
        own = {n: m for n, m in self._model.named_modules() if not any(True for _ in m.children())}
        weights = Weights(self._checkpoint, plan, self._family.TIED)
        try:
            yield simulate(self._model, weights, plan, self._forcing, self._rounding)
        finally:
            for name, module in own.items():
                if self._model.get_submodule(name) is not module:
                    replace_module(self._model, name, module)

    def _rounding(self, module: str, scheme: IntegerScheme | None) -> Rounding:
        """Return how the target rounds at a module; caches and types stay the original's."""
        manifest = self._request.manifest
        if scheme is None or manifest is None:
            return Rounding()
        rounding = inspection_of(manifest.kind).rounding(
            manifest,
            scheme,
            graph=self._forcing.static_graph(module),
            once=self._forcing.runs_once(module),
            narrow=False,
        )
        return Rounding(inputs=rounding.inputs, products=rounding.products)

    @contextmanager
    def _counting(self, rows: dict[str, float]) -> Iterator[None]:
        """Add up the vectors that linear modules and convolutions give."""

        def count(name: str) -> Callable[..., None]:
            def add(module: nn.Linear | nn.Conv1d, _inputs: Any, output: Tensor) -> None:
                rows[name] = rows.get(name, 0.0) + output.numel() // module.weight.shape[0]

            return add

        kinds = (nn.Linear, nn.Conv1d)
        products = [(n, m) for n, m in self._model.named_modules() if isinstance(m, kinds)]
        handles = [module.register_forward_hook(count(name)) for name, module in products]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
