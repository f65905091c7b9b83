"""Hold a CTC model's config and tokenizer to one another."""

from collections.abc import Iterator, Mapping
from typing import Any


def disagreements(config: Any, tokenizer: Any, vocabulary: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a tokenizer says that a model of this config cannot mean.

    Args:
        config: The model's config.
        tokenizer: Its tokenizer.
        vocabulary: The content of `vocab.json`.
    """
    size, blank = config.vocab_size, tokenizer.pad_token_id
    ids = list(vocabulary.values())
    if not all(isinstance(each, int) and each >= 0 for each in ids) or len({*ids}) < len(ids):
        yield "the ids in vocab.json are not distinct whole numbers"
        return
    if blank is None or blank >= size:
        yield f"its pad token {tokenizer.pad_token!r:.40}, the blank, is none of {size} tokens"
    elif config.pad_token_id not in (None, blank):
        yield (
            f"its pad token {tokenizer.pad_token!r:.40}, the blank, is token {blank}, "
            f"and config.json has pad_token_id {config.pad_token_id}"
        )
    yield from _other_sizes(size, tokenizer, vocabulary)


def _other_sizes(size: int, tokenizer: Any, vocabulary: Mapping[str, int]) -> Iterator[str]:
    """Yield tokens that the head lacks, except special ones, and outputs without a token.

    Tokenizers add `<s>` and `</s>` beyond the head of many checkpoints: these are never written.
    """
    special = set(tokenizer.all_special_tokens)
    beyond = [word for word, token in vocabulary.items() if token >= size and word not in special]
    if beyond:
        yield (
            f"vocab.json has {beyond[0]!r:.40} as token {vocabulary[beyond[0]]}, and the head has "
            f"{size} outputs"
        )
    unnamed = set(range(size)).difference(tokenizer.get_vocab().values())
    if unnamed:
        yield f"the head has {size} outputs, and none of its tokens is number {min(unnamed)}"
