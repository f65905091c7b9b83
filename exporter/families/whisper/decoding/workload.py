"""Set the number of tokens that a model decodes, for benchmarks and smoke tests."""

from typing import Any

from exporter.errors import RecipeError

_PROMPT_TOKENS = 4  # start, language, task, no timestamps


def limit_tokens(model: Any, tokens: int) -> None:
    """Limit the tokens decoded of a window, including the prompt."""
    model.generation_config.max_length = tokens


def force_tokens(model: Any, tokens: int) -> bool:
    """Make `generate` and the decoding loops decode exactly `tokens` tokens of every window.

    Raises:
        RecipeError: The model has too few positions.
    """
    most = model.config.max_target_positions - _PROMPT_TOKENS
    if tokens > most:
        msg = f"--tokens {tokens}: this model decodes at most {most} at a time"
        raise RecipeError(msg)
    settings = model.generation_config
    settings.min_new_tokens = settings.max_new_tokens = tokens
    # A timestamp, which noise may cause, would make `generate` decode on from there.
    times = range(settings.no_timestamps_token_id + 1, model.config.vocab_size)
    settings.suppress_tokens = [*(settings.suppress_tokens or ()), *times]
    return True
