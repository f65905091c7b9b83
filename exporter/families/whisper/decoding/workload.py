"""Set the number of tokens that a model decodes, for benchmarks and smoke tests."""

from dataclasses import dataclass
from typing import Any

from exporter.errors import RecipeError

_PROMPT_TOKENS = 4  # start, language, task, no timestamps


@dataclass(frozen=True)
class Workload:
    """How many tokens are decoded of a window, in place of what the recipe says.

    Attributes:
        max_length: The most tokens, including the prompt.
        new_tokens: Exactly so many, without the prompt.
    """

    max_length: int | None = None
    new_tokens: int | None = None

    def apply(self, settings: Any, vocabulary: int) -> None:
        """Write it to the settings of `generate`, for a vocabulary of that size."""
        if self.max_length is not None:
            settings.max_length, settings.max_new_tokens = self.max_length, None
        if self.new_tokens is not None:
            settings.min_new_tokens = settings.max_new_tokens = self.new_tokens
            # A timestamp, which noise may cause, would make `generate` decode on from there.
            times = range(settings.no_timestamps_token_id + 1, vocabulary)
            settings.suppress_tokens = [*(settings.suppress_tokens or ()), *times]


def limit_tokens(model: Any, tokens: int) -> None:
    """Limit the tokens decoded of a window, including the prompt."""
    model.workload = Workload(max_length=tokens)


def force_tokens(model: Any, tokens: int) -> bool:
    """Make `transcribe` decode exactly `tokens` tokens of every window.

    Raises:
        RecipeError: The model has too few positions.
    """
    most = model.config.max_target_positions - _PROMPT_TOKENS
    if tokens > most:
        msg = f"--tokens {tokens}: this model decodes at most {most} at a time"
        raise RecipeError(msg)
    model.workload = Workload(new_tokens=tokens)
    return True
