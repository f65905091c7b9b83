"""How many tokens a model decodes, whatever it hears: for benchmarks and first tries."""

from typing import Any

from exporter.errors import RecipeError

_PROMPT_TOKENS = 4  # start, language, task, no timestamps


def limit_tokens(model: Any, tokens: int) -> None:
    """Let a model decode so many tokens of a window at most, its prompt counted."""
    model.generation_config.max_length = tokens


def force_tokens(model: Any, tokens: int) -> bool:
    """Make `generate`, and the lean loops, decode exactly so many tokens for every window.

    Raises RecipeError where the model's positions do not suffice.
    """
    most = model.config.max_target_positions - _PROMPT_TOKENS
    if tokens > most:
        msg = f"--tokens {tokens}: this model decodes at most {most} at a time"
        raise RecipeError(msg)
    settings = model.generation_config
    settings.min_new_tokens = settings.max_new_tokens = tokens
    # Where a model hears times in noise, `generate` would decode the window again from the last.
    times = range(settings.no_timestamps_token_id + 1, model.config.vocab_size)
    settings.suppress_tokens = [*(settings.suppress_tokens or ()), *times]
    return True
