"""The artifact's part of a comparison, in its own process, against what `reference` wrote."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.errors import IntegrityError, ResourceError, exhausted
from exporter.families.forcing import Forced
from exporter.families.graph import GraphFunction
from exporter.system import hardware
from exporter.system.progress import Progress
from exporter.targets import inspection_of
from exporter.targets.inspection import Unrounded
from exporter.validate.evidence.reference import OTHERS, calls_of, distance, place, sampled
from exporter.validate.evidence.results import (
    Consistency,
    Expected,
    Findings,
    ModuleDistance,
    Resources,
    Steps,
)
from exporter.validate.measure.model import OpenModel

_FAR = 1e9  # instead of what is not finite
_LEAST_NOISE = 1e-7  # float32's own
_BATCHES = (2, 5, 8)
_BEAMS = (2, 5)
_PROMPTS = (1, 2, 3, 5, 8, 16, 17, 32, 64, 128, 224)
_LOOP = 12
_TIMED_STEPS = 16


def examine(model: OpenModel, expected: Expected, progress: Progress) -> Findings:
    """Compare an open artifact with its original and with itself.

    Args:
        model: The artifact.
        expected: The result of `reference.write`.
        progress: Called with the current activity.
    """
    return _Examination(model, expected, progress).findings()


class _Examination:
    def __init__(self, model: OpenModel, expected: Expected, progress: Progress) -> None:
        recogniser = model.recogniser
        manifest = recogniser.manifest
        assert manifest is not None, "an artifact has one"
        self._opened, self._expected, self._progress = model, expected, progress
        self._model, self._forcing = recogniser.model, recogniser.family.forcing
        self._folder = Path(expected.folder)
        inspection = inspection_of(manifest.kind)
        threads = torch.get_num_threads()
        self._exact: Unrounded | None = None
        self._others: Mapping[str, GraphFunction] = {}
        with _failing() as inexact:
            self._exact = inspection.unrounded(model.folder, manifest, recogniser.family, threads)
        with _failing() as failure:
            self._others = inspection.others(model.folder, manifest, threads)
        self._unopened, self._inexact = failure, inexact
        self._noise = self._noise_of("rounded")
        self._exact_noise = 0.0 if self._exact is None else self._noise_of("exact")

    def findings(self) -> Findings:
        start, cases = time.perf_counter(), list(enumerate(self._expected.cases))
        steps = tuple(self._steps(number) for number, _ in cases)
        return Findings(
            steps=steps,
            noise=self._noise,
            exact_noise=None if self._exact is None else self._exact_noise,
            modules=self._located(exact=False),
            exact_modules=() if self._exact is None else self._located(exact=True),
            features={case["name"]: self._heard(number) for number, case in cases},
            consistency=tuple(self._consistency()),
            resources=self._measured(),
            seconds=time.perf_counter() - start,
            decoder=self._expected.decoder,
            inexact="".join(self._inexact),
        )

    def _forced(self, model: Any, features: Tensor, tokens: Tensor, calls: Sequence[int]) -> Forced:
        """Decode given tokens; the result is in the host's memory, and so the device is done."""
        forced: Forced = self._forcing.forced(model, features, tokens, calls)
        return forced.cpu()

    def _read(self, number: int, name: str) -> Tensor:
        return torch.from_numpy(np.load(place(self._folder, number, name)))

    def _noise_of(self, mode: str) -> float:
        """Return the distance of both simulated runs, over all cases that were run twice."""
        squares = []
        for number in range(len(self._expected.cases)):
            if place(self._folder, number, f"{mode}-again").exists():
                again, first = (self._read(number, n) for n in (f"{mode}-again", mode))
                squares.append(np.square(_by_step(again, first)))
        return max(float(np.sqrt(np.concatenate(squares).mean())), _LEAST_NOISE)

    def _input(self, number: int) -> tuple[Tensor, Tensor]:
        return self._read(number, "features"), self._read(number, "tokens")

    def _steps(self, number: int) -> Steps:
        case = self._expected.cases[number]
        with _failing() as failure:
            return self._compared(number, case)
        far = (_FAR,)
        original = {"kl_original": far, "top1_original": (False,)} if case["clip"] else {}
        name, clip = case["name"], case["clip"]
        return Steps(name=name, clip=clip, error=failure[0], distance=far, **original)

    def _compared(self, number: int, case: Mapping[str, Any]) -> Steps:
        self._progress(
            f"decoding a given text ({case['name']})", number / len(self._expected.cases)
        )
        features, tokens = self._input(number)
        calls = calls_of(tokens.shape[1], self._expected.prompt)
        logits = self._forced(self._model, features, tokens, calls).logits
        original = {}
        if case["clip"]:
            kl, top1 = agreement(self._read(number, "original"), logits)
            original = {"kl_original": kl, "top1_original": top1}
        exact = None
        if self._exact is not None:
            free = self._forced(self._exact.model, features, tokens, calls)
            exact = tuple(_by_step(free.logits, self._read(number, "exact")))
        finite = logits.isfinite().all(-1).flatten()
        return Steps(
            name=case["name"],
            clip=case["clip"],
            finite=bool(finite.all()),
            first=None if bool(finite.all()) else int(finite.int().argmin()),
            distance=tuple(_by_step(logits, self._read(number, "rounded"))),
            exact=exact,
            **original,
        )

    def _heard(self, number: int) -> float:
        with _failing():
            return self._features(number)
        return _FAR

    def _features(self, number: int) -> float:
        """Return how far the artifact's features lie from the original's, at most."""
        recogniser = self._opened.recogniser
        samples = self._read(number, "samples").numpy()
        ours = self._forcing.own_features(self._model, recogniser.processor, [samples]).cpu()
        theirs = self._read(number, "features")
        if ours.shape != theirs.shape:
            return _FAR
        return _far(float((ours - theirs).abs().max()))

    def _located(self, *, exact: bool) -> tuple[ModuleDistance, ...]:
        with _failing():
            return self._modules(exact=exact)
        return ()

    def _modules(self, *, exact: bool) -> tuple[ModuleDistance, ...]:
        """Compare what modules gave, over the cases whose states were written."""
        mode = "exact" if exact else "rounded"
        sums: dict[str, list[tuple[float, float]]] = {}
        for number in range(len(self._expected.cases)):
            paths = sorted(self._folder.glob(f"{number}-{mode}-*.npz"))
            if not paths:
                continue
            features, tokens = self._input(number)
            found = self._states(features, tokens, exact=exact)
            for path in paths:
                module = path.stem.removeprefix(f"{number}-{mode}-")
                if module in found:
                    with np.load(path) as saved:
                        states, noise = torch.from_numpy(saved["states"]), float(saved["noise"])
                    away = _far(distance(sampled(found[module]), states))
                    sums.setdefault(module, []).append((away**2, noise**2))
        means = {module: np.sqrt(np.mean(pairs, 0)) for module, pairs in sums.items()}
        order = [module for module in self._expected.modules if module in means]
        return tuple(
            ModuleDistance(module=m, distance=float(means[m][0]), noise=float(means[m][1]))
            for m in order
        )

    def _states(self, features: Tensor, tokens: Tensor, *, exact: bool) -> Mapping[str, Tensor]:
        calls = calls_of(tokens.shape[1], self._expected.prompt)
        if not exact or self._exact is None:
            return self._forced(self._model, features, tokens, calls).states
        self._exact.states.clear()
        self._exact.watching = True
        forced = self._forced(self._exact.model, features, tokens, calls)
        self._exact.watching = False
        tapped = {name: torch.cat(parts, 1).cpu() for name, parts in self._exact.states.items()}
        return {**forced.states, **tapped}

    def _consistency(self) -> Iterator[Consistency]:
        """Ask the same in other ways, without rounding where the target allows it."""
        exact = self._exact
        model = self._model if exact is None else exact.model
        noise = self._noise if exact is None else self._exact_noise
        # Windows that are decoded together may share scales of their cache: that is rounding.
        roads: dict[str, Callable[[], Iterable[Consistency]]] = {
            "repeat": lambda: [self._repeated()]
        }
        if self._expected.decoder:
            roads |= {
                "prompts": lambda: self._prompts(model, noise),
                "batches": lambda: self._batches(model, self._noise),
                "beams": lambda: self._beams(model, self._noise),
                "graphs": self._graphs,
            }
        for check, road in roads.items():
            self._progress(f"asking in another way ({check})", None)
            found: list[Consistency] = []
            with _failing() as failure:
                for each in road():
                    found.append(each)
            yield from found
            if failure:
                yield Consistency(
                    check=check, what=check, distance=_FAR, noise=noise, error=failure[0]
                )

    def _repeated(self) -> Consistency:
        features, tokens = self._input(0)
        calls = calls_of(tokens.shape[1], self._expected.prompt)
        first, again = (self._forced(self._model, features, tokens, calls).logits for _ in range(2))
        away = _worst(_by_step(again, first))
        return Consistency(
            check="repeat", what="the same input twice", distance=away, noise=self._noise
        )

    def _prompts(self, model: Any, noise: float) -> Iterator[Consistency]:
        """Decode prompts of several lengths in one call, and go on token by token."""
        features, tokens = self._input(self._fullest())
        tokens = tokens[:, : max(_PROMPTS) + 4]
        plain = self._forced(model, features, tokens, [1] * tokens.shape[1]).logits
        for length in _PROMPTS:
            if length >= tokens.shape[1]:
                break
            some = tokens[:, : length + 4]
            logits = self._forced(model, features, some, calls_of(some.shape[1], length)).logits
            away = _worst(_by_step(logits, plain[:, : some.shape[1]]))
            yield Consistency(
                check="prompts", what=f"a prompt of {length} tokens", distance=away, noise=noise
            )

    def _fullest(self) -> int:
        """Return the case with the most tokens, which is decoded to the last position."""
        cases = self._expected.cases
        return max(range(len(cases)), key=lambda number: int(cases[number]["tokens"]))

    def _batches(self, model: Any, noise: float) -> Iterator[Consistency]:
        """Decode several clips together, each with the tokens that all have."""
        clips = [n for n, case in enumerate(self._expected.cases) if case["clip"]]
        inputs = [self._input(number) for number in clips]
        length = min(tokens.shape[1] for _, tokens in inputs)
        calls = calls_of(length, self._expected.prompt)
        alone = [
            self._forced(model, features, tokens[:, :length], calls).logits
            for features, tokens in inputs
        ]
        for size in _BATCHES:
            chosen = [place % len(inputs) for place in range(size)]
            features = torch.cat([inputs[each][0] for each in chosen])
            tokens = torch.cat([inputs[each][1][:, :length] for each in chosen])
            together = self._forced(model, features, tokens, calls).logits
            expected = torch.cat([alone[each] for each in chosen])
            away = _worst(_by_step(together, expected))
            yield Consistency(
                check="batches", what=f"a batch of {size} clips", distance=away, noise=noise
            )

    def _beams(self, model: Any, noise: float) -> Iterator[Consistency]:
        """Decode several texts of one clip, and of two, as hypotheses of a beam search."""
        clips = [n for n, case in enumerate(self._expected.cases) if case["clip"]]
        inputs = [self._input(number) for number in clips]
        prompt, length = self._expected.prompt, min(tokens.shape[1] for _, tokens in inputs)
        for windows in (1, 2):
            for beams in _BEAMS:
                heard = [inputs[place % len(inputs)][0] for place in range(windows)]
                texts = [
                    inputs[place % len(inputs)][1][:, :length] for place in range(windows * beams)
                ]
                rows = self._forcing.forced_rows(
                    model, torch.cat(heard), torch.cat(texts), prompt, beams
                ).cpu()
                calls = calls_of(length, prompt)
                alone = [
                    self._forced(model, heard[row // beams], text, calls).logits
                    for row, text in enumerate(texts)
                ]
                away = _worst(_by_step(rows, torch.cat(alone)[:, prompt:]))
                what = f"{beams} hypotheses of {windows} {'clip' if windows == 1 else 'clips'}"
                yield Consistency(check="beams", what=what, distance=away, noise=noise)

    def _graphs(self) -> Iterator[Consistency]:
        """Decode with the graphs of other loaders: with and without rounding, and in a batch."""
        if self._unopened:
            raise IntegrityError(self._unopened[0])
        yield from self._other_graphs(self._model, self._others, "rounded")
        if self._exact is not None:
            yield from self._other_graphs(self._exact.model, self._exact.others, "plain")

    def _other_graphs(
        self, model: Any, graphs: Mapping[str, GraphFunction], mode: str
    ) -> Iterator[Consistency]:
        exact = mode == "plain"
        how = {"check": "graphs", "noise": self._exact_noise if exact else self._noise}
        kind = ", without rounding" if exact else ""
        inputs = [self._input(number) for number in range(OTHERS)]
        for number, (features, tokens) in enumerate(inputs):
            calls = calls_of(tokens.shape[1], self._expected.prompt)
            forced = self._forcing.forced_others(model, graphs, features, tokens, calls)
            for graph, result in forced.items():
                away = _worst(_by_step(result.logits.cpu(), self._read(number, mode)))
                what = f"{graph} on {self._expected.cases[number]['name']}{kind}"
                yield Consistency(what=what, distance=away, exact=exact, **how)
        length = min(tokens.shape[1] for _, tokens in inputs)
        calls = calls_of(length, self._expected.prompt)
        features = torch.cat([each for each, _ in inputs])
        tokens = torch.cat([each[:, :length] for _, each in inputs])
        forced = self._forcing.forced_others(model, graphs, features, tokens, calls)
        alone = [self._read(number, mode)[:, :length] for number in range(len(inputs))]
        expected = torch.cat(alone)
        for graph, result in forced.items():
            what = f"{graph} on a batch of {len(inputs)} clips{kind}"
            away = _worst(_by_step(result.logits.cpu(), expected))
            yield Consistency(what=what, distance=away, exact=exact, **how)

    def _measured(self) -> Resources | None:
        self._progress("calling it in a loop", None)
        with _failing():
            return self._resources()
        return None

    def _resources(self) -> Resources:
        """Call the artifact in a loop; time windows and the decoder's first and last steps."""
        cases = self._expected.cases
        windows, lengths = {}, {}
        for number, case in enumerate(cases):
            features, tokens = self._input(number)
            lengths[case["name"]] = features[0].numel()
            windows[case["name"]] = min(
                _seconds(lambda f=features, t=tokens: self._one(f, t[:, :1])) for _ in range(2)
            )
        features, tokens = self._input(0)
        before = hardware.current_rss_bytes()
        for _ in range(_LOOP):
            self._one(features, tokens)
        growth = hardware.current_rss_bytes() - before
        early, late = self._step_seconds()
        return Resources(
            growth_bytes=growth,
            calls=_LOOP,
            early_s=early,
            late_s=late,
            windows_s=windows,
            lengths=lengths,
        )

    def _one(self, features: Tensor, tokens: Tensor) -> None:
        calls = calls_of(tokens.shape[1], self._expected.prompt)
        self._forced(self._model, features, tokens, calls)

    def _step_seconds(self) -> tuple[float, float]:
        """Return seconds a step, at the first and at the last positions, after their prompts."""
        features, tokens = self._input(self._fullest())
        length = tokens.shape[1]
        if not self._expected.decoder:
            return 0.0, 0.0
        short = min(length, self._expected.prompt + _TIMED_STEPS)
        count = max(min(_TIMED_STEPS, length - 1), 1)
        times = []
        for end in (short, length):
            some = tokens[:, :end]
            with_steps = [end - count, *[1] * count]
            without = [end - count]
            whole, part = (
                min(
                    _seconds(lambda t=t, c=c: self._forced(self._model, features, t, c))
                    for _ in range(3)
                )
                for t, c in ((some, with_steps), (some[:, : end - count], without))
            )
            times.append(max(whole - part, 0.0) / count)
        return times[0], times[1]


@contextmanager
def _failing() -> Iterator[list[str]]:
    """Take an error of the artifact's for a result; what runs out, and bugs of ours, are none."""
    failure: list[str] = []
    try:
        yield failure
    except ResourceError:
        raise
    except Exception as error:  # whatever a runtime raises
        if exhausted(error):
            raise
        lines = str(error).splitlines() or [""]
        failure.append(f"{type(error).__name__}: {lines[0][:200]}")


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _by_step(values: Tensor, expected: Tensor) -> list[float]:
    """Return the distance of logits [windows, steps, vocabulary] by step, of all windows."""
    ours, theirs = values.float(), expected.float()
    square = (ours - theirs).square().mean(-1).sqrt() / theirs.std(-1)
    return [_far(float(each)) for each in square.flatten()]


def _far(value: float) -> float:
    return value if np.isfinite(value) else _FAR


def _worst(steps: Sequence[float]) -> float:
    return max(steps)


def agreement(original: Tensor, logits: Tensor) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Return the KL divergence from the original's distribution, and equal likeliest tokens."""
    ours, theirs = (each[0].double().log_softmax(-1) for each in (original, logits))
    divergence = (ours.exp() * (ours - theirs)).sum(-1)
    same = ours.argmax(-1) == theirs.argmax(-1)
    return tuple(_far(float(each)) for each in divergence), tuple(same.tolist())
