"""Whisper: log-mel in, byte-level tokens out, over a window of fixed length.

The family itself is in `family`; here are the facts that need no torch.
"""

from exporter.families.facts import Companions
from exporter.families.whisper.config_limits import CONFIGS

__all__ = ["COMPANIONS", "CONFIGS", "DECODING", "ENCODERS", "MODEL_TYPES"]

MODEL_TYPES = ("whisper",)
COMPANIONS = Companions(
    configs=("config.json", "generation_config.json", "preprocessor_config.json"),
    tokenizer=(
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "vocab.json", "merges.txt", "normalizer.json"),
    ),
    tokenizer_forms=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    nested={"preprocessor_config.json": "processor_config.json"},
    tokenizer_class="WhisperTokenizer",
)
DECODING = (
    *("language", "task", "num_beams", "length_penalty", "repetition_penalty"),
    *("no_repeat_ngram_size", "max_new_tokens", "timestamps", "batch_size", "temperatures"),
    *("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"),
    *("condition_on_previous", "initial_prompt", "hotwords", "word_timestamps"),
    "hallucination_silence_threshold",
)
ENCODERS = ("encoder_model", "encoder")  # names in the ONNX and the static cut
