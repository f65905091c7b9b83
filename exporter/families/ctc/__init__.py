"""CTC recognisers: samples in, a token or a blank for every frame out.

The family itself is in `family`; here are the facts that need no torch.
"""

from exporter.families.ctc.config_limits import CONFIGS, MODEL_TYPES
from exporter.families.facts import Companions
from exporter.runtime.ctc.model import DECODING

__all__ = ["COMPANIONS", "CONFIGS", "DECODING", "ENCODERS", "MODEL_TYPES"]

COMPANIONS = Companions(
    configs=("config.json", "preprocessor_config.json"),
    tokenizer=(
        *("vocab.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "tokenizer.json", "alphabet.json"),
    ),
    tokenizer_forms=(("vocab.json",), ("tokenizer.json",)),
    nested={"preprocessor_config.json": "processor_config.json"},
    tokenizer_class="Wav2Vec2CTCTokenizer",
    languages=("vocab.json", "tokenizer_config.json"),
    # As pyctcdecode's `BeamSearchDecoderCTC.save_to_dir` writes a language model.
    carried=tuple(
        f"language_model/{name}"
        for name in ("attrs.json", "unigrams.txt", "[!.]*.arpa", "[!.]*.bin", "[!.]*.binary")
    ),
)
ENCODERS = ("model",)
