"""The most likely next tokens of hypotheses, found where their logits are."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from exporter.runtime.whisper.engine import Hypotheses, Scores, Tokens
from exporter.runtime.whisper.rules import Rules


@dataclass(frozen=True)
class Ranking:
    """The most likely next tokens of each row.

    Attributes:
        scores: Their log-probabilities among all tokens [rows, tokens], best first; -inf for those
            that may not follow.
        tokens: The tokens [rows, tokens].
        mass: The logarithm of the probability of all that may follow [rows].
    """

    scores: Scores
    tokens: Tokens
    mass: Scores


@runtime_checkable
class RankingHypotheses(Hypotheses, Protocol):
    """Hypotheses of which not all logits have to be copied to the host."""

    def begin(self, prompts: Tokens, start: int) -> tuple[Scores, Scores]:
        """Decode prompts [windows, tokens].

        Returns:
            The logits [windows, vocabulary] after the token at `start`, and after the last one.
        """
        ...

    def ranks(self, rules: Rules, prompt: int, beams: int) -> bool:
        """Return whether `rank` serves a search by these rules, and prepare it.

        Args:
            rules: What may follow.
            prompt: The tokens of the prompt.
            beams: The hypotheses of a window.
        """
        ...

    def rank(self, rows: Tokens) -> Ranking:
        """Decode the last of the tokens [rows, tokens], after those before.

        Returns:
            At least twice as many tokens of each row as there are beams.
        """
        ...
