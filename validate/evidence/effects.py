"""What the keys of an artifact's small files do, for messages.

Each table is sorted: what decoding reads first comes first. Source: the configs and the generation
of Whisper in transformers.
"""

from collections.abc import Mapping, Sequence

_GENERATION = {
    "eos_token_id": "where decoding ends",
    "decoder_start_token_id": "the first token of every prompt",
    "lang_to_id": "the tokens of languages in the prompt",
    "task_to_id": "the tokens that ask for a transcript or a translation",
    "no_timestamps_token_id": "where timestamps begin, and whether there are any",
    "is_multilingual": "whether prompts have a language and a task",
    "language": "the language where nobody names one",
    "task": "the task where nobody names one",
    "suppress_tokens": "tokens that are never chosen",
    "begin_suppress_tokens": "tokens that are not chosen first",
    "forced_decoder_ids": "tokens that older loaders force after the first",
    "max_length": "the most tokens that other loaders decode",
    "max_new_tokens": "the most tokens that other loaders decode",
    "pad_token_id": "the token that fills rows of a batch that ended",
    "bos_token_id": "the first token where no prompt is given",
    "prev_sot_token_id": "the token before a window's preceding text",
    "max_initial_timestamp_index": "the latest time at which a window's speech may begin",
    "return_timestamps": "whether other loaders decode timestamps",
    "alignment_heads": "the heads that give word timestamps",
    "num_beams": "how other loaders search",
    "length_penalty": "how other loaders weigh long hypotheses",
    "repetition_penalty": "how other loaders weigh repeated tokens",
    "no_repeat_ngram_size": "which repetitions other loaders forbid",
    "do_sample": "whether other loaders choose tokens at random",
    "temperature": "how random the tokens of other loaders are",
}
_EXTRACTOR = {
    "feature_size": "the mel bins that the encoder gets",
    "num_mel_bins": "the mel bins that the encoder gets",
    "sampling_rate": "the rate to which audio is resampled",
    "hop_length": "the samples between two frames",
    "n_fft": "the samples in the spectrum of a frame",
    "chunk_length": "the seconds in a window",
    "n_samples": "the samples in a window",
    "nb_max_frames": "the frames in a window",
    "padding_value": "what fills a window after the audio",
    "padding_side": "on which side of the audio a window is filled",
    "dither": "noise that is added to the audio",
    "feature_extractor_type": "how features are computed",
    "return_attention_mask": "whether a mask goes with the features",
}
_CONFIG = {
    "model_type": "which model loaders create",
    "num_mel_bins": "the mel bins that the encoder expects",
    "d_model": "the width of every layer",
    "encoder_layers": "the number of layers",
    "decoder_layers": "the number of layers",
    "encoder_attention_heads": "how attention is split into heads",
    "decoder_attention_heads": "how attention is split into heads",
    "encoder_ffn_dim": "the width of the feed-forward layers",
    "decoder_ffn_dim": "the width of the feed-forward layers",
    "activation_function": "the function between the feed-forward layers",
    "scale_embedding": "whether token embeddings are scaled by the root of the width",
    "max_source_positions": "the frames that the encoder takes",
    "max_target_positions": "the most tokens that the decoder takes",
    "vocab_size": "how many tokens there are",
    "target_lang": "the language, of many, that the weights are for",
    "tie_word_embeddings": "whether the projection to tokens is the embedding",
    "decoder_start_token_id": "the first token of every prompt",
    "eos_token_id": "where decoding ends, for loaders without a generation config",
    "pad_token_id": "which embedding stands for padding",
    "bos_token_id": "the first token where no prompt is given",
    "forced_decoder_ids": "tokens that older loaders force after the first",
    "suppress_tokens": "tokens that older loaders never choose",
    "begin_suppress_tokens": "tokens that older loaders do not choose first",
    "max_length": "the most tokens that older loaders decode",
    "transformers.js_config": "which files transformers.js fetches",
    "use_cache": "whether other loaders keep keys and values of earlier tokens",
    "dtype": "the type of the weights in other loaders",
    "torch_dtype": "the type of the weights in other loaders",
    "architectures": "which class other loaders create",
}
_SPECIAL = "which tokens count as special, and are left out of the text"
_WORDS = "what each token is as text"
_SPLITS = "how text is split into tokens, as for prompts"
_TOKENIZER = {
    "model.vocab": _WORDS,
    "added_tokens": _SPECIAL,
    "decoder": "how tokens are joined to text",
    "model.merges": _SPLITS,
    "pre_tokenizer": _SPLITS,
    "post_processor": "which tokens stand around a text",
    "normalizer": "how text is changed before it is split into tokens",
}
_SETTINGS = {
    "added_tokens_decoder": _SPECIAL,
    "eos_token": "the token that ends a text",
    "unk_token": "the token for what has none",
    "pad_token": "the token that fills rows of a batch",
    "bos_token": "the token that begins a text",
    "additional_special_tokens": _SPECIAL,
    "extra_special_tokens": _SPECIAL,
    "errors": "what becomes of bytes that are not UTF-8",
    "clean_up_tokenization_spaces": "which spaces are removed from the text",
    "tokenizer_class": "which tokenizer loaders create",
    "add_prefix_space": _SPLITS,
    "chat_template": "a template that other loaders put text into",
    "model_max_length": "the most tokens of a text in other loaders",
}
_QUANTIZATION = {
    "modules": "which weights are read as int8, and how they are scaled",
    "weights": "how weights are stored",
    "activations": "how activations are rounded",
    "schema_version": "the form of the file",
}
_NOTES = ("transformers_version", "_name_or_path", "_commit_hash", "name_or_path")
_NO_EFFECT = "a note without effect on decoding"
_GENERAL = "a setting that some loader reads"

EFFECTS: Mapping[str, Mapping[str, str]] = {
    "generation_config.json": _GENERATION,
    "preprocessor_config.json": _EXTRACTOR,
    "config.json": _CONFIG,
    "quantization.json": _QUANTIZATION,
    "tokenizer.json": _TOKENIZER,
    "vocab.json": {},
    "added_tokens.json": {},
    "tokenizer_config.json": _SETTINGS,
    "special_tokens_map.json": _SETTINGS,
    "merges.txt": {},
    "normalizer.json": {},
}
_WHOLE_FILES = {
    "vocab.json": _WORDS,
    "added_tokens.json": "the tokens beyond the vocabulary",
    "merges.txt": _SPLITS,
    "normalizer.json": "which spellings count as equal when words are compared",
    "ort_config.json": "what optimum's tools show of the quantization",
    "tokenizer.json": "a whole tokenizer, which most loaders prefer to the other files",
    "chat_template.jinja": "a template that other loaders put text into",
    "processor_config.json": "settings of the feature extractor in newer loaders",
}


def effect(file: str, path: Sequence[str | int]) -> str:
    """Return a short clause on what a value does.

    Args:
        file: The file's name.
        path: The keys and list positions that lead to the value; empty for the whole file.
    """
    known = EFFECTS.get(file, {})
    for key in _keys(path):
        if key in known:
            return known[key]
    if path and path[-1] in _NOTES:
        return _NO_EFFECT
    return _WHOLE_FILES.get(file, _GENERAL)


def severity(file: str, path: Sequence[str | int]) -> tuple[int, int]:
    """Return a number by which differences are sorted: what decoding reads first comes first."""
    files, known = list(EFFECTS), list(EFFECTS.get(file, {}))
    if path and path[-1] in _NOTES:
        return len(files) + 1, 0
    place = next((known.index(key) for key in _keys(path) if key in known), len(known))
    return (files.index(file) if file in EFFECTS else len(files)), place


def _keys(path: Sequence[str | int]) -> list[str]:
    """Return the names under which a table may have a path: its first two keys, or the first."""
    return [".".join(map(str, path[:depth])) for depth in (2, 1) if len(path) >= depth]
