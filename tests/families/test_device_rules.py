"""What a step on the device chooses, and how its state moves on: by the rules of the runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exporter.families.whisper import construct
from exporter.families.whisper.engine.device_memory import Memory
from exporter.families.whisper.graphs.device import RING, RULED, STATE, Best, StepAfter
from exporter.runtime.whisper.rules import Rules, TimeRules
from exporter.runtime.whisper.search import greedy

SIZE, FIRST, END = 60, 40, 37
PROMPT = [3, 5, FIRST + 4]  # its last token is a time, which is none of the text
PLAIN = Rules(ends=(END,), never=(7, 8), not_first=(END, 9), max_length=30)
TIMED = replace(PLAIN, times=TimeRules(FIRST, END, 5))
ALL = {
    "plain": PLAIN,
    "two ends": replace(PLAIN, ends=(END, 11)),
    "limited": replace(PLAIN, max_new=6),
    "at least": replace(PLAIN, min_new=9, max_new=9),
    "times": TIMED,
    "any first time": replace(TIMED, times=TimeRules(FIRST, END, None)),
    "times and at least": replace(TIMED, min_new=5),
}


class Told(StepAfter):
    """A step's end that is told its logits."""

    def __init__(self, logits: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.given = logits

    def logits(self, hidden: Tensor) -> Tensor:
        return self.given[int(hidden[0, 0])][:, None]


class Said:
    """Hypotheses that are told their logits [steps, rows, SIZE]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.windows, self.at = logits, logits.shape[1], 0

    def step(self, _ids: Any) -> Any:
        self.at += 1
        return self.logits[self.at][:, None].numpy().copy()


def chances(rows: int, seed: int) -> Tensor:
    """Logits in which times and the end are likely now and then."""
    source = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(40, rows, SIZE, generator=source)
    logits[..., FIRST:] += 2 * torch.randn(40, rows, 1, generator=source)
    logits[..., END] += 1.5
    return logits


def memory(folder: Path, rules: Rules) -> Memory:
    config = construct.config_of(folder)
    config.vocab_size = SIZE
    made = Memory({}, config, torch.float32, torch.device("cpu"), narrow=False)
    made.set_rules(rules)
    return made


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("seed", range(4))
def test_a_step_says_what_the_greedy_search_says(tiny_whisper: Path, kind: str, seed: int) -> None:
    rules, rows = ALL[kind], 5
    logits = chances(rows, seed)
    prompts = np.array([PROMPT] * rows)
    first: Any = logits[0].numpy().copy()
    expected = greedy(Said(logits), first, prompts, rules, scored=True)  # type: ignore[arg-type]
    tensors = memory(tiny_whisper, rules).tensors
    state = {name: torch.zeros(rows, dtype=torch.int32) for name in STATE}
    state["token"].fill_(PROMPT[-1])
    state["latest"].fill_(-1)
    state["least"].fill_(rules.min_new)
    state["limit"].fill_(rules.longest(len(PROMPT)) - len(PROMPT))
    ring, turn = torch.zeros(RING, rows, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    logprob, step, said = torch.zeros(rows), Told(logits), []
    for at in range(rules.longest(len(PROMPT)) - len(PROMPT)):
        hidden = torch.full((rows, 1, 1), float(at))
        step(hidden, ring, turn, tensors["bias"], tensors["bounds"], logprob, *state.values())
        assert int(turn) == (at + 1) % RING
        assert torch.equal(ring[at % RING], state["token"])
        said.append(state["token"].tolist())
    for row, found in enumerate(expected):
        told = [tokens[row] for tokens in said]
        assert told[: len(found.tokens)] == found.tokens
        assert set(told[len(found.tokens) + 1 :]) <= {rules.end}
        assert state["said"][row] == len(found.tokens) + found.ended
        assert state["position"][row] == state["said"][row]
        assert logprob[row].item() == pytest.approx(found.logprob, abs=1e-4)
    assert state["finished"].all()


@pytest.mark.parametrize("kind", ALL)
def test_the_best_tokens_are_those_that_the_rules_leave(tiny_whisper: Path, kind: str) -> None:
    rules, rows = ALL[kind], 4
    logits = chances(rows, 9)[0]
    said = [[], [FIRST + 2], [FIRST + 2, 5], [FIRST + 2, 5, FIRST + 9]]
    for row, tokens in enumerate(said):
        scores = logits[row : row + 1].log_softmax(-1)
        before = [*PROMPT, *tokens]
        state = {
            "token": before[-1],
            "previous": before[-2],
            "latest": max([t for t in tokens if t >= FIRST], default=-1),
            "said": len(tokens),
            "least": rules.min_new,
        }
        given = [torch.tensor([state[name]], dtype=torch.int32) for name in RULED]
        tensors = memory(tiny_whisper, rules).tensors
        found, places, mass = Best()(
            logits[row : row + 1], tensors["bias"], tensors["bounds"], *given
        )
        expected: Any = scores.numpy().copy()
        rules.apply(expected, np.array([before]), len(PROMPT))
        order = np.argsort(-expected[0], kind="stable")[: found.shape[1]]
        np.testing.assert_allclose(found[0].numpy(), expected[0, order], rtol=1e-5)
        real = np.isfinite(expected[0, order])
        assert places[0].numpy()[real].tolist() == order[real].tolist()
        assert mass.item() == pytest.approx(np.log(np.exp(expected).sum()), abs=1e-5)
