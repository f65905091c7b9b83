"""Greedy search, sampling and beam search; the searches are token for token transformers'.

This code runs for every token, so it is optimised for speed: what is done for a whole vocabulary
is one call of numpy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.runtime.whisper.engine import Hypotheses, Scores, Tokens
from exporter.runtime.whisper.rules import Rules
from exporter.runtime.whisper.streams.ranking import Ranking, RankingHypotheses

_NEVER = np.float32(-1e9)  # transformers' score of excluded candidates
_BLOCK = 64

Sampler = np.random.Generator


@dataclass(frozen=True)
class Found:
    """The text that was found of a window.

    Attributes:
        tokens: Its tokens, without prompt and end.
        ended: Whether the model ended it; else it is as long as it may be.
        logprob: The sum of the tokens' log-probabilities after suppression, the end's included;
            None if it was not asked for.
    """

    tokens: list[int]
    ended: bool
    logprob: float | None = None

    @property
    def avg_logprob(self) -> float | None:
        """The log-probability of a token, on average, the end included."""
        if self.logprob is None:
            return None
        return self.logprob / max(len(self.tokens) + self.ended, 1)


def greedy(
    hypotheses: Hypotheses,
    scores: Scores,
    prompts: Tokens,
    rules: Rules,
    *,
    temperature: float = 0.0,
    samplers: Sequence[Sampler] = (),
    scored: bool = False,
) -> list[Found]:
    """Decode by choosing the most likely token at every step, or a random one.

    Args:
        hypotheses: The windows after their prompts.
        scores: The logits after the prompts [windows, vocabulary]; changed.
        prompts: The prompts [windows, tokens].
        rules: What may follow.
        temperature: If not 0, tokens are drawn, each with the probability of its logit divided
            by it, as in `GreedyDecoder` of openai-whisper.
        samplers: Draws the tokens of each window.
        scored: Whether log-probabilities are summed.

    Returns:
        The text of each window.
    """
    windows, prompt = prompts.shape
    longest = rules.longest(prompt)
    tokens = np.full((windows, longest), rules.end)
    tokens[:, :prompt] = prompts
    running, sums = np.ones(windows, bool), np.zeros(windows, np.float32)
    for length in range(prompt, longest):
        if length > prompt:
            scores = hypotheses.step(tokens[:, length - 1 : length])[:, -1]
        rules.apply(scores, tokens[:, :length], prompt)
        chosen = _drawn(scores, temperature, samplers) if temperature else scores.argmax(-1)
        if scored:
            sums += np.where(running, _logprobs(scores, np.arange(windows), chosen), np.float32(0))
        tokens[:, length] = np.where(running, chosen, rules.end)
        running &= ~rules.ended(chosen)
        if not running.any():
            break
    rows = zip(tokens[:, prompt : length + 1], sums.tolist(), strict=True)
    return [_found(row, rules, total if scored else None) for row, total in rows]


def beam_search(
    hypotheses: Hypotheses,
    scores: Scores,
    prompts: Tokens,
    rules: Rules,
    beams: int,
    *,
    patience: float | None = None,
    scored: bool = False,
) -> list[Found]:
    """Decode by beam search, as `GenerationMixin._beam_search` of transformers.

    With `patience` it is that of openai-whisper, `BeamSearchDecoder`.

    Args:
        hypotheses: The windows after their prompts.
        scores: The logits after the prompts [windows, vocabulary]; changed.
        prompts: The prompts [windows, tokens].
        rules: What may follow.
        beams: The hypotheses of each window, of which the best is returned.
        patience: End a window's search after `beams * patience` hypotheses have ended.
        scored: Whether log-probabilities are summed.

    Returns:
        The text of each window.
    """
    windows, prompt = prompts.shape
    state: _Beams | _PatientBeams
    if patience is None:
        state = _Beams(rules, prompts, beams)
    else:
        state = _PatientBeams(rules, prompts, beams, round(beams * patience))
    finding = _Continuations(rules, prompt, 2 * beams, patient=patience is not None, scored=scored)
    before = np.zeros((windows, 1), np.float32)  # at first all hypotheses of a window are equal
    alike = np.arange(windows * beams)
    ranking = _ranking(hypotheses, rules, prompt, beams)
    state.choose(*finding.of_scores(scores, before, prompts))
    while state.running:
        if before.shape[1] < beams:
            hypotheses.expand_beams(beams)
        elif not np.array_equal(state.parents, alike):
            hypotheses.reorder(state.parents)
        before, rows = state.scores, state.rows
        if ranking is not None:
            state.choose(*finding.of_ranking(ranking.rank(rows), before))
        else:
            scores = hypotheses.step(rows[:, -1:])[:, -1]
            state.choose(*finding.of_scores(scores, before, rows))
    return [_found(row, rules, gained if scored else None) for row, gained in state.best()]


def _ranking(
    hypotheses: Hypotheses, rules: Rules, prompt: int, beams: int
) -> RankingHypotheses | None:
    """Return the hypotheses if they rank their next tokens themselves."""
    if isinstance(hypotheses, RankingHypotheses) and hypotheses.ranks(rules, prompt, beams):
        return hypotheses
    return None


Continuations = tuple[Scores, Tokens, Tokens, Scores]
"""The most likely continuations of each window, best first [windows, continuations]: sums of
log-probabilities, the hypotheses they continue, their tokens, and the tokens' log-probabilities."""


@dataclass(frozen=True)
class _Continuations:
    """Finds the `count` most likely continuations.

    In a `patient` search, probabilities are those of the tokens that the rules leave.
    """

    rules: Rules
    prompt: int
    count: int
    patient: bool
    scored: bool

    def of_scores(self, scores: Scores, before: Scores, rows: Tokens) -> Continuations:
        """Return those by the logits [rows, vocabulary] after `rows` [rows, tokens]."""
        if not self.patient:
            _to_log_softmax(scores)
        self.rules.apply(scores, rows, self.prompt)
        if self.patient:
            _to_log_softmax(scores)
        sums, parents, tokens = _best(scores, before, self.count)
        gains = _gains(scores, parents, tokens) if self.scored else np.zeros_like(sums)
        return sums, parents, tokens, gains

    def of_ranking(self, ranking: Ranking, before: Scores) -> Continuations:
        """Return those by the most likely tokens of each row."""
        windows, each = len(before), ranking.scores.shape[1]
        gains = ranking.scores - ranking.mass[:, None]
        scores = gains if self.patient else ranking.scores
        sums = (scores.reshape(*before.shape, each) + before[:, :, None]).reshape(windows, -1)
        window = np.arange(windows)[:, None]
        best = _descending(sums)[:, : self.count]
        tokens, gains = ranking.tokens.reshape(windows, -1), gains.reshape(windows, -1)
        return sums[window, best], best // each, tokens[window, best], gains[window, best]


class _Beams:
    """The state of a beam search between two steps: running and finished hypotheses.

    Sequences are [windows, beams, most tokens], padded with the end token; scores are [windows,
    beams] in float32, rounded as in transformers.
    """

    def __init__(self, rules: Rules, prompts: Tokens, beams: int) -> None:
        windows, self._prompt = prompts.shape
        self._rules = rules
        self._beams = beams
        self._longest = rules.longest(self._prompt)
        self._window = np.arange(windows)[:, None]
        self.length = self._prompt
        self._sequences = np.full((windows, beams, self._longest), rules.end, np.int64)
        self._sequences[:, :, : self.length] = prompts[:, None]
        self.scores = np.zeros((windows, beams), np.float32)
        self._gains = np.zeros((windows, beams), np.float32)
        self.finished = self._sequences.copy()
        self.finished_gains = self._gains.copy()
        self._finished_scores = np.full((windows, beams), _NEVER)
        self._ended = np.zeros((windows, beams), bool)
        self._improvable = np.ones((windows, 1), bool)
        self.running = True
        self.parents = np.arange(windows * beams)

    @property
    def rows(self) -> Tokens:
        """The running hypotheses' tokens [windows * beams, tokens]."""
        return self._sequences[:, :, : self.length].reshape(-1, self.length)

    def best(self) -> Iterator[tuple[Tokens, float]]:
        """Yield each window's best text after the prompt, and its log-probability."""
        for row, gained in zip(self.finished[:, 0], self.finished_gains[:, 0], strict=True):
            yield row[self._prompt :], float(gained)

    def choose(self, scores: Scores, parents: Tokens, tokens: Tokens, gains: Scores) -> None:
        """Advance with the 2 * beams most likely continuations [windows, 2 * beams], best first.

        `gains` are the tokens' own log-probabilities.
        """
        sequences = self._sequences[self._window, parents]
        sequences[:, :, self.length] = tokens
        gains = self._gains[self._window, parents] + gains
        ends = self._rules.ended(tokens) | (self.length + 1 >= self._longest)
        self._go_on(scores, parents, sequences, ends, gains)
        if ends[:, : self._beams].any():
            self._finish(scores, sequences, ends, gains)
        self.length += 1
        self._look_ahead(bool(ends.all()))

    def _go_on(
        self, scores: Scores, parents: Tokens, sequences: Tokens, ends: Tokens, gains: Scores
    ) -> None:
        """Keep the best hypotheses that have not ended."""
        open_scores = scores + ends * _NEVER
        best = _descending(open_scores)[:, : self._beams]
        self._sequences = sequences[self._window, best]
        self.scores = open_scores[self._window, best]
        self._gains = gains[self._window, best]
        first_row = self._window * self._beams
        self.parents = (parents[self._window, best] + first_row).ravel()

    def _finish(self, scores: Scores, sequences: Tokens, ends: Tokens, gains: Scores) -> None:
        """Keep the best finished hypotheses; new ones count among the first `beams` only."""
        now = ends.copy()
        now[:, self._beams :] = False
        new = self.length + 1 - self._prompt
        scores = scores / np.float32(new**self._rules.length_penalty)
        scores = scores + ~self._improvable * _NEVER + ~now * _NEVER
        merged = np.concatenate([self._finished_scores, scores], 1)
        best = _descending(merged)[:, : self._beams]
        self.finished = np.concatenate([self.finished, sequences], 1)[self._window, best]
        self.finished_gains = np.concatenate([self.finished_gains, gains], 1)[self._window, best]
        self._finished_scores = merged[self._window, best]
        self._ended = np.concatenate([self._ended, now], 1)[self._window, best]

    def _look_ahead(self, all_ended: bool) -> None:
        """Stop windows whose running hypotheses cannot become better than the finished ones."""
        new = self.length - self._prompt
        possible = self.scores[:, :1] / np.float32(new**self._rules.length_penalty)
        worst = self._finished_scores.min(1, keepdims=True)
        worst = np.where(self._ended, worst, _NEVER)
        self._improvable &= (possible > worst).any(-1, keepdims=True)
        self.running = bool(self._improvable.any()) and not all_ended


class _PatientBeams:
    """The state of openai-whisper's beam search: running hypotheses, and those that have ended.

    A window is done when `enough` have ended. Sequences are [windows, beams, most tokens], padded
    with the end token; scores are sums of log-probabilities [windows, beams].
    """

    def __init__(self, rules: Rules, prompts: Tokens, beams: int, enough: int) -> None:
        windows, self._prompt = prompts.shape
        self._rules = rules
        self._beams = beams
        self._enough = enough
        self._longest = rules.longest(self._prompt)
        self._length = self._prompt
        self._sequences = np.full((windows, beams, self._longest), rules.end, np.int64)
        self._sequences[:, :, : self._length] = prompts[:, None]
        self.scores = np.zeros((windows, beams), np.float32)
        self._ended: list[list[tuple[float, Tokens]]] = [[] for _ in prompts]
        self.parents = np.arange(windows * beams)
        self.running = True

    @property
    def rows(self) -> Tokens:
        """The running hypotheses' tokens [windows * beams, tokens]."""
        return self._sequences[:, :, : self._length].reshape(-1, self._length)

    def choose(self, scores: Scores, parents: Tokens, tokens: Tokens, _: Scores) -> None:
        """Advance with the 2 * beams most likely continuations [windows, 2 * beams], best first."""
        window = np.arange(len(scores))[:, None]
        sequences = self._sequences[window, parents]
        sequences[:, :, self._length] = tokens
        ends = self._rules.ended(tokens)
        # No more than one continuation of each hypothesis ends it, so enough of them do not.
        going = np.argsort(ends, 1, kind="stable")[:, : self._beams]
        for place, ended in enumerate(self._ended):
            told = np.flatnonzero(ends[place, : going[place, -1]])[: self._enough - len(ended)]
            ended += [(float(scores[place, n]), sequences[place, n]) for n in told]
        self._sequences, self.scores = sequences[window, going], scores[window, going]
        self.parents = (parents[window, going] + window * self._beams).ravel()
        self._length += 1
        done = all(len(ended) >= self._enough for ended in self._ended)
        self.running = not done and self._length < self._longest

    def best(self) -> Iterator[tuple[Tokens, float]]:
        """Yield each window's best text after the prompt, and its log-probability.

        Those that still run count where fewer than `beams` have ended.
        """
        for ended, scores, sequences in zip(self._ended, self.scores, self._sequences, strict=True):
            missing = max(self._beams - len(ended), 0)
            running = zip(scores[:missing].tolist(), sequences[:missing], strict=True)
            candidates = [*ended, *running]
            score, row = max(candidates, key=lambda each: self._normalised(*each))
            yield row[self._prompt : self._length], score

    def _normalised(self, score: float, row: Tokens) -> float:
        ends = np.flatnonzero(self._rules.ended(row[self._prompt : self._length]))
        length = ends[0] if len(ends) else self._length - self._prompt
        return normalised(score, int(length), self._rules)


def normalised(logprob: float, tokens: int, rules: Rules) -> float:
    """Return the score by which texts are compared: of `tokens` tokens, without the end.

    Source: `MaximumLikelihoodRanker` of openai-whisper.
    """
    return float(logprob / max(tokens, 1) ** rules.length_penalty)


def _best(scores: Scores, before: Scores, count: int) -> tuple[Scores, Tokens, Tokens]:
    """Return the `count` most likely continuations of each window, best first.

    `scores` [windows * beams, vocabulary] are added to `before` [windows, beams].
    """
    windows, size = len(before), scores.shape[1]
    places = _candidates(scores, before, count)
    window = np.arange(windows)[:, None]
    sums = scores.reshape(windows, -1)[window, places] + before[window, places // size]
    best = np.argpartition(sums, -count, 1)[:, -count:]
    order = best[window, _descending(sums[window, best])]
    chosen = places[window, order]
    return sums[window, order], chosen // size, chosen % size


def _candidates(scores: Scores, before: Scores, count: int) -> Tokens:
    """Return indices into each window's beams * vocabulary that include the `count` best.

    The best are in the `count` blocks with the largest maxima. A block is a column of the
    vocabulary reshaped to `_BLOCK` rows, so that maxima of many blocks are computed at once.
    """
    windows, beams = before.shape
    size = scores.shape[1]
    width = size // _BLOCK
    if beams * width <= count:
        return np.broadcast_to(np.arange(beams * size), (windows, beams * size))
    cut = scores[:, : _BLOCK * width].reshape(len(scores), _BLOCK, width)
    maxima = cut.max(1).reshape(windows, beams, width) + before[:, :, None]
    blocks = np.argpartition(maxima.reshape(windows, -1), -count, 1)[:, -count:]
    first = blocks // width * size + blocks % width
    inside = first[:, :, None] + np.arange(0, _BLOCK * width, width)
    rest = np.arange(beams)[:, None] * size + np.arange(_BLOCK * width, size)
    beyond = np.broadcast_to(rest.ravel(), (windows, rest.size))
    return np.concatenate([inside.reshape(windows, -1), beyond], 1)


def _gains(scores: Scores, parents: Tokens, tokens: Tokens) -> Scores:
    """Return continuations' own log-probabilities [windows, candidates]."""
    windows = len(parents)
    beams = len(scores) // windows
    rows = (parents + np.arange(windows)[:, None] * beams).ravel()
    return _logprobs(scores, rows, tokens.ravel()).reshape(parents.shape)


def _logprobs(scores: Scores, rows: Tokens, tokens: Tokens) -> Scores:
    """Return the log-probability of one token for each of `rows`."""
    most = scores.max(-1)
    masses = most + np.log(np.exp(scores - most[:, None]).sum(-1))
    logprobs: Scores = scores[rows, tokens] - masses[rows]
    return logprobs


def _to_log_softmax(scores: Scores) -> None:
    scores -= scores.max(-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))


def _drawn(scores: Scores, temperature: float, samplers: Sequence[Sampler]) -> Tokens:
    """Return a random token of each row."""
    chances = np.exp((scores - scores.max(-1, keepdims=True)) / np.float32(temperature))
    sums = np.cumsum(chances, -1, dtype=np.float64)
    drawn = [sampler.random() * row[-1] for sampler, row in zip(samplers, sums, strict=True)]
    places = [np.searchsorted(row, at, "right") for row, at in zip(sums, drawn, strict=True)]
    return np.array(places, np.int64)


def _descending(scores: Scores) -> Tokens:
    """Return the indices that sort each row in descending order; the sort is stable."""
    return np.argsort(-scores, 1, kind="stable")


def _found(row: Tokens, rules: Rules, logprob: float | None) -> Found:
    ends = np.flatnonzero(rules.ended(row))
    if len(ends):
        return Found(row[: ends[0]].tolist(), ended=True, logprob=logprob)
    return Found(row.tolist(), ended=False, logprob=logprob)
