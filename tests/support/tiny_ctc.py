"""Complete CTC checkpoints of toy size, of every kind, and recordings to hear.

The weights are random. The head is sharp, so that rounding seldom changes which letter is the
likeliest, and never writes a special token, which other loaders would spell out.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import (
    ParakeetTokenizerFast,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

from tests.support.tokenizer_files import save_letters

_LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijk"]
_RATE = 16_000
_NEVER = (1, 2, 3)

# What differs between kinds of checkpoints: transformers' class, and settings of its config.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", {}),
    "wav2vec2-layer-norm": (
        "Wav2Vec2",
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
    "wav2vec2-adapter": (
        "Wav2Vec2",
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "adapter_attn_dim": 8},
    ),
    "hubert": ("Hubert", {"feat_proj_layer_norm": False}),
    "hubert-layer-norm": (
        "Hubert",
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
    # Heads of 24 numbers, for which aoti has no kernel.
    "hubert-batch-norm": ("Hubert", {"conv_pos_batch_norm": True, "hidden_size": 48}),
    "data2vec-audio": (
        "Data2VecAudio",
        {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    ),
    "unispeech": ("UniSpeech", {}),
    "wavlm": ("WavLM", {"num_buckets": 32, "max_bucket_distance": 40}),
    "wavlm-layer-norm": (
        "WavLM",
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
    "wav2vec2-conformer": ("Wav2Vec2Conformer", {"conv_depthwise_kernel_size": 5}),
    "wav2vec2-conformer-rotary": (
        "Wav2Vec2Conformer",
        {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5},
    ),
    "wav2vec2-bert": (
        "Wav2Vec2Bert",
        {
            "left_max_position_embeddings": 6,
            "right_max_position_embeddings": 3,
            "conv_depthwise_kernel_size": 5,
        },
    ),
    "wav2vec2-bert-adapter": (
        "Wav2Vec2Bert",
        {
            "position_embeddings_type": "relative",
            "conv_depthwise_kernel_size": 5,
            "add_adapter": True,
            "use_intermediate_ffn_before_adapter": True,
            "output_hidden_size": 48,
        },
    ),
    "parakeet_ctc": (
        "ParakeetCTC",
        {
            "pad_token_id": 15,
            "encoder_config": {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "conv_kernel_size": 5,
                "subsampling_conv_channels": 12,  # Inductor copies up to eight
            },
        },
    ),
    "unispeech-sat": ("UniSpeechSat", {"do_stable_layer_norm": True}),
}


def make_ctc(
    folder: Path,
    kind: str = "wav2vec2",
    *,
    dtype: torch.dtype = torch.float32,
    do_normalize: bool = True,
    **changes: Any,
) -> Path:
    """Write a whole Hugging Face checkpoint folder, and return the folder."""
    folder.mkdir(parents=True)
    if kind == "parakeet_ctc":
        _save_pieces(folder)
    else:
        save_letters(folder, _LETTERS)
    if kind.startswith("wav2vec2-bert"):
        SeamlessM4TFeatureExtractor(sampling_rate=_RATE).save_pretrained(folder)
    elif kind == "parakeet_ctc":
        # transformers' class needs librosa, even to write this.
        settings = {"feature_extractor_type": "ParakeetFeatureExtractor", "feature_size": 80}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    else:
        extractor = Wav2Vec2FeatureExtractor(sampling_rate=_RATE, do_normalize=do_normalize)
        extractor.save_pretrained(folder)
    tiny_model(kind, **changes).to(dtype).save_pretrained(folder)
    return folder


def _save_pieces(folder: Path) -> None:
    """Write a tokenizer of pieces of words, whose blank is the last."""
    pieces = ["<unk>", "▁", "▁a", "▁ca", *"abcdefghijk", "<pad>"]
    words = tokenizers.models.WordLevel({p: n for n, p in enumerate(pieces)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    named = {"unk_token": "<unk>", "pad_token": "<pad>"}
    ParakeetTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def tiny_model(kind: str, **changes: Any) -> Any:
    """Return a model of random weights in transformers."""
    name, settings = KINDS[kind]
    own = {
        "vocab_size": len(_LETTERS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": (32, 32, 32),
        "conv_kernel": (10, 8, 8),
        "conv_stride": (8, 8, 8),
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "pad_token_id": 0,
    }
    if name == "ParakeetCTC":
        own = {"vocab_size": len(_LETTERS)}
    config = getattr(transformers, f"{name}Config")(**{**own, **settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (
            getattr(transformers, f"{name.removesuffix('CTC')}ForCTC")(config)
            .eval()
            .requires_grad_(False)
        )
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("original0"):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            if parameter_name.endswith(("bias_u", "bias_v", "rel_pos_const")):
                parameter.normal_()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                for tensor in (module.weight, module.running_var):
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_()
        head = model.ctc_head if name == "ParakeetCTC" else model.lm_head
        head.weight.normal_()
        head.bias[[0] if name == "ParakeetCTC" else list(_NEVER)] = -100.0
    return model


def make_clips(folder: Path, count: int = 3) -> Path:
    """Write recordings of up to two seconds with a transcript each, as a manifest."""
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        seconds = 0.6 + 0.7 * index
        path = folder / f"{index}.wav"
        soundfile.write(path, tones(seconds, index), _RATE)
        line = {"audio_filepath": path.name, "text": "a cab", "duration": seconds}
        lines.append(json.dumps(line))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "manifest.jsonl"


def tones(seconds: float, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a recording of changing tones, float32 [samples]."""
    random = np.random.default_rng(seed)
    steps = random.uniform(0.01, 0.4, int(seconds * _RATE) // 800 + 1).repeat(800)
    return (0.1 * np.sin(np.cumsum(steps[: int(seconds * _RATE)]))).astype(np.float32)


def make_mms(folder: Path, language: str = "deu", *, pickled: bool = False) -> Path:
    """Write a checkpoint of two languages, English in its weights, whose tokenizer names one."""
    make_ctc(folder, "wav2vec2-adapter")
    words = {"eng": _LETTERS, "deu": [*_LETTERS, *"äöüß"]}
    nested = {name: {word: n for n, word in enumerate(each)} for name, each in words.items()}
    (folder / "vocab.json").write_text(json.dumps(nested), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "target_lang": language}
    del settings["added_tokens_decoder"]
    path.write_text(json.dumps(settings))
    german = tiny_model("wav2vec2-adapter", vocab_size=len(words["deu"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, parameter in german.named_parameters():
            if "adapter_layer" in name:
                parameter.normal_(0, 0.3)
    own = {n: t for n, t in german.state_dict().items() if "adapter_layer" in n or "lm_head" in n}
    if pickled:
        torch.save(own, folder / "adapter.deu.bin")
    else:
        save_file(own, folder / "adapter.deu.safetensors", {"format": "pt"})
    return folder
