"""Checkpoints with words that were added to tokenizer and model, and that the model writes."""

from pathlib import Path

import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast

from exporter.checkpoint.checkpoint import open_checkpoint

WORDS, SOUND = (" zebra", "Kubernetes"), "<|laugh|>"
PADDING = 5  # ids that the model has and the tokenizer has not


def add_words(folder: Path, script: dict[int, str | None]) -> Path:
    """Add `WORDS` and the special token `SOUND` to a checkpoint, in place.

    `script` maps positions to the token that the model is to favour there; None: one that only the
    model has.
    """
    tokenizer = WhisperTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(list(WORDS))
    tokenizer.add_special_tokens({"additional_special_tokens": [SOUND]})
    tokenizer.save_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    before = model.config.vocab_size
    model.resize_token_embeddings(len(tokenizer) + PADDING, mean_resizing=False)
    decoder = model.model.decoder
    with torch.no_grad():
        tokens, positions = decoder.embed_tokens.weight, decoder.embed_positions.weight
        source = torch.Generator().manual_seed(0)
        width = tokens.shape[1]
        added = torch.randn(len(tokens) - before, width, generator=source) * width**-0.5
        tokens[before:] = added
        for place, word in script.items():
            number = len(tokenizer) if word is None else tokenizer.convert_tokens_to_ids(word)
            positions[place] = 9 * tokens[number] / tokens[number].norm()
    model.save_pretrained(folder)
    for name, content in open_checkpoint(str(folder)).converted.items():
        (folder / name).write_bytes(content)  # which release 5 saves in its own form
    return folder
