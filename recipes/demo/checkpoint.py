"""The demo models as Hugging Face checkpoints: tokenizers, configurations, weights, export."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import (
    AddedToken,
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    WhisperTokenizerFast,
)
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2EncoderStableLayerNorm
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import speech
from speech import RATE
from windows import (
    LETTERS,
    MAX_START,
    TIME_STEP,
    WINDOW_SECONDS,
    LogMel,
    Prompt,
    feature_extractor,
)

MERGES = 500
# Only English is taught. `WhisperTokenizer` counts language ids in this order: none may be skipped.
LANGUAGES = ("en", "zh", "de", "es", "ru", "ko", "fr")
TASKS = ("translate", "transcribe")
END = "<|endoftext|>"
MAX_TOKENS = 160
KERNELS, STRIDES = (256, 3, 3), (80, 2, 2)  # of wav2vec2's convolutions, in samples and frames
FRAME = math.prod(STRIDES)
FIELD = KERNELS[0] + sum((k - 1) * math.prod(STRIDES[:n]) for n, k in enumerate(KERNELS) if n)
_DROPOUTS = (
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "layerdrop",
)
# The first, for padding, is the blank.
CTC_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", *speech.vocabulary())


def build_tokenizer(folder: Path, texts: list[str]) -> None:
    """Learn byte-pair merges from the texts and write all tokenizer files, slow and fast."""
    folder.mkdir(parents=True, exist_ok=True)
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        [" " + text for text in texts], vocab_size=256 + MERGES, show_progress=False
    )
    learner.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocabulary[END] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")

    tokenizer = WhisperTokenizer(  # type: ignore[no-untyped-call]
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        **dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), END),
        model_max_length=MAX_TOKENS,
    )
    later = ("startoflm", "startofprev", "nospeech", "notimestamps")
    names = ["startoftranscript", *LANGUAGES, *TASKS, *later]
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in names]})
    steps = round(WINDOW_SECONDS / TIME_STEP)
    tokenizer.add_tokens(
        [AddedToken(f"<|{step * TIME_STEP:.2f}|>", special=False) for step in range(steps + 1)]
    )
    tokenizer.save_pretrained(folder)
    WhisperTokenizerFast.from_pretrained(folder).save_pretrained(folder)


def model_config(tokenizer: WhisperTokenizer) -> WhisperConfig:
    """Return the architecture: Whisper at a tenth of tiny's size."""
    prompt = Prompt.of(tokenizer)
    return WhisperConfig(  # type: ignore[no-untyped-call]
        vocab_size=len(tokenizer),
        d_model=192,
        encoder_layers=4,
        decoder_layers=3,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=768,
        decoder_ffn_dim=768,
        num_mel_bins=80,
        max_source_positions=round(WINDOW_SECONDS / TIME_STEP),
        max_target_positions=MAX_TOKENS,
        dropout=0.0,
        pad_token_id=prompt.end,
        bos_token_id=prompt.end,
        eos_token_id=prompt.end,
        decoder_start_token_id=prompt.start,
        # Both belong to the generation config, which saving would overwrite with these.
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def generation_config(tokenizer: WhisperTokenizer) -> GenerationConfig:
    """Return what `generate` needs, with English transcription as the default."""
    prompt = Prompt.of(tokenizer)
    identifier = tokenizer.convert_tokens_to_ids
    never = ["startoftranscript", *TASKS, "startoflm", "startofprev", "nospeech"]
    return GenerationConfig(  # type: ignore[no-untyped-call]
        is_multilingual=True,
        language="en",
        task="transcribe",
        lang_to_id={f"<|{code}|>": identifier(f"<|{code}|>") for code in LANGUAGES},
        task_to_id={task: identifier(f"<|{task}|>") for task in TASKS},
        return_timestamps=False,
        no_timestamps_token_id=prompt.no_timestamps,
        max_initial_timestamp_index=round(MAX_START / TIME_STEP),
        prev_sot_token_id=prompt.previous,
        begin_suppress_tokens=[*tokenizer(" ", add_special_tokens=False).input_ids, prompt.end],
        suppress_tokens=sorted(identifier(f"<|{name}|>") for name in never),
        alignment_heads=[[1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]],
        max_length=MAX_TOKENS,
        decoder_start_token_id=prompt.start,
        bos_token_id=prompt.end,
        eos_token_id=prompt.end,
        pad_token_id=prompt.end,
    )


def initial_model(config: WhisperConfig, log_mel: LogMel) -> WhisperForConditionalGeneration:
    """Return a model that learns from scratch.

    With transformers' own initial weights (all of deviation 0.02) the spectrogram arrives far
    weaker than the position sinusoids, and training does not take off.
    """
    model = WhisperForConditionalGeneration(config)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.proj_out:
            nn.init.xavier_uniform_(module.weight)
    encoder = model.model.encoder
    noise = log_mel(torch.randn(4, 2 * RATE) * 0.1)
    with torch.no_grad():
        for convolution in (encoder.conv1, encoder.conv2):
            target = 1.0 if convolution is encoder.conv1 else encoder.embed_positions.weight.std()
            nn.init.kaiming_normal_(convolution.weight)
            # GELU is not linear: a few rounds bring the output to the wanted amplitude.
            for _ in range(4):
                convolution.weight *= target / nn.functional.gelu(convolution(noise)).std()
            noise = nn.functional.gelu(convolution(noise))
    return model


def export(model: WhisperForConditionalGeneration, tokenizer_folder: Path, folder: Path) -> None:
    """Write the whole Whisper checkpoint in float16."""
    tokenizer = WhisperTokenizer.from_pretrained(tokenizer_folder)
    half = WhisperForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = generation_config(tokenizer)
    with _complete(folder) as partial:
        shutil.copytree(tokenizer_folder, partial)
        half.to(torch.float16).save_pretrained(partial)  # type: ignore[arg-type]
        feature_extractor().save_pretrained(partial)


def ctc_labels(letters: list[int]) -> list[int]:
    """Return the token ids of letters of `Window.letters`, which count from 1."""
    words = "".join(LETTERS[letter - 1] for letter in letters).split()
    return [CTC_TOKENS.index(token) for token in " | ".join(words).split()]


def trained_encoder() -> WhisperEncoder:
    """Return the encoder of the trained Whisper, in float32."""
    folder = Path(__file__).parent / "whisper"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.get_encoder()


def initial_ctc(whisper: WhisperEncoder) -> Wav2Vec2ForCTC:
    """Return a wav2vec2, small, with layer norm and frames of 20 ms, to train.

    Its first layers are Whisper's, which are of the same kind.
    """
    config = Wav2Vec2Config(
        vocab_size=len(CTC_TOKENS),
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        # One long convolution is taught faster than the usual stack of short ones.
        conv_dim=(128, 192, 192),
        conv_kernel=KERNELS,
        conv_stride=STRIDES,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=16,
        **dict.fromkeys(_DROPOUTS, 0.0),
        # Masking would add a tensor that only training uses.
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
        ctc_loss_reduction="mean",
        pad_token_id=CTC_TOKENS.index("<pad>"),
        bos_token_id=CTC_TOKENS.index("<s>"),
        eos_token_id=CTC_TOKENS.index("</s>"),
    )
    model = Wav2Vec2ForCTC(config)
    # transformers' deviation of 0.02 is meant for wider layers.
    layers = [model.wav2vec2.feature_projection, model.wav2vec2.encoder]
    for module in (module for layer in layers for module in layer.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    _take_layers(model.wav2vec2.encoder, whisper)
    first = model.wav2vec2.feature_extractor.conv_layers[0].conv
    first.weight.data.copy_(_filters(len(first.weight))[:, None])
    return model


def _filters(count: int) -> Tensor:
    """Return pairs of sine and cosine at pitches as far apart as those of a mel spectrogram."""
    pitches = torch.linspace(0, 1, count // 2) * (mel(7600.0) - mel(60.0)) + mel(60.0)
    hertz = 700 * (torch.exp(pitches / 1127) - 1)
    time = torch.arange(KERNELS[0]) / RATE
    phase = 2 * torch.pi * hertz[:, None] * time
    waves = torch.cat([phase.sin(), phase.cos()]) * torch.hann_window(KERNELS[0])
    # Speech has less energy at higher frequencies.
    return waves / waves.norm(dim=1, keepdim=True) * (hertz / 1000).sqrt().repeat(2)[:, None]


def mel(hertz: float) -> float:
    """Return a frequency on the mel scale."""
    return 1127 * math.log1p(hertz / 700)


def _take_layers(encoder: Wav2Vec2EncoderStableLayerNorm, whisper: WhisperEncoder) -> None:
    """Copy Whisper's layers; those that follow them add nothing at first."""
    for layer, taught in zip(encoder.layers, whisper.layers, strict=False):
        # Whisper's keys have no bias.
        layer.attention.load_state_dict(taught.self_attn.state_dict(), strict=False)
        nn.init.zeros_(layer.attention.k_proj.bias)
        layer.layer_norm.load_state_dict(taught.self_attn_layer_norm.state_dict())
        layer.feed_forward.intermediate_dense.load_state_dict(taught.fc1.state_dict())
        layer.feed_forward.output_dense.load_state_dict(taught.fc2.state_dict())
        layer.final_layer_norm.load_state_dict(taught.final_layer_norm.state_dict())
    for layer in encoder.layers[len(whisper.layers) :]:
        nn.init.zeros_(layer.attention.out_proj.weight)
        nn.init.zeros_(layer.feed_forward.output_dense.weight)
    encoder.layer_norm.load_state_dict(whisper.layer_norm.state_dict())


def export_ctc(model: Wav2Vec2ForCTC, folder: Path) -> None:
    """Write the whole wav2vec2 checkpoint in float16."""
    half = Wav2Vec2ForCTC(model.config)
    half.load_state_dict(model.state_dict())
    with _complete(folder) as partial:
        partial.mkdir(parents=True)
        vocabulary = {token: index for index, token in enumerate(CTC_TOKENS)}
        (partial / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        Wav2Vec2CTCTokenizer(str(partial / "vocab.json")).save_pretrained(partial)
        Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(partial)
        half.to(torch.float16).save_pretrained(partial)  # type: ignore[arg-type]


@contextmanager
def _complete(folder: Path) -> Iterator[Path]:
    """Yield a path at which to write a folder, which is put in place only when complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
