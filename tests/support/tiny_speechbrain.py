"""Complete SpeechBrain folders of toy size, of both published forms, and what they compute.

The weights are random. The head is sharp, so that rounding seldom changes which token is the
likeliest. `Reference` is written from SpeechBrain's sources: `EncoderASR`, `Wav2Vec2`,
`BatchNorm1d`, `VanillaNN` and `Linear`, with batch norms as they are.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

WIDTH, NEURONS, RATE = 32, 24, 16_000
_WORDS = ("\u2581a", "\u2581b", "\u2581", *"abcde", "\u2581the", "ing", "s", "t")
PIECES = ["<unk>", "<s>", "</s>", *_WORDS]
LABELS = ["<blank>", "<bos>", "<eos>", " ", "'", *"abcdefghijk"]
_LINEAR = """\
    linear{n}: !name:speechbrain.nnet.linear.Linear
        n_neurons: !ref <dnn_neurons>
        bias: True
    bn{n}: !name:speechbrain.nnet.normalization.BatchNorm1d
    activation{m}: !new:torch.nn.LeakyReLU
"""
_DROP = "    drop{m}: !new:torch.nn.Dropout\n        p: !ref <dropout>\n"
_SEQUENTIAL = (
    "enc: !new:speechbrain.nnet.containers.Sequential\n"
    f"    input_shape: [null, null, {WIDTH}]\n"
    + "".join(_LINEAR.format(n=n, m=n if n > 1 else "") for n in (1,))
    + _DROP.format(m="")
    + _LINEAR.format(n=2, m=2)
    + _DROP.format(m=2)
    + _LINEAR.format(n=3, m=3)
)
_VANILLA = f"""\
activation: !name:torch.nn.LeakyReLU
dnn_layers: 2
enc: !new:speechbrain.lobes.models.VanillaNN.VanillaNN
   input_shape: [null, null, {WIDTH}]
   activation: !ref <activation>
   dnn_blocks: !ref <dnn_layers>
   dnn_neurons: !ref <dnn_neurons>
"""
# The form of both of SpeechBrain's published files; what is `|...|` differs.
_HYPERPARAMS = """\
# Model: wav2vec2 + DNN + CTC
sample_rate: 16000
wav2vec2_hub: facebook/wav2vec2-large-lv60

# BPE parameters
token_type: unigram  # ["unigram", "bpe", "char"]
character_coverage: 1.0

# Model parameters
dnn_neurons: |neurons|
dropout: 0.15
freeze_wav2vec: True

# Outputs
output_neurons: |outputs|  # BPE size, index(blank/eos/bos) = 0
blank_index: 0
bos_index: 1
eos_index: 2

|enc|
wav2vec2: !new:|wav2vec2|
    source: !ref <wav2vec2_hub>
    output_norm: |output_norm|
    freeze: !ref <freeze_wav2vec>
    save_path: wav2vec2_checkpoint

ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <dnn_neurons>
    n_neurons: !ref <output_neurons>

log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True

ctc_cost: !name:speechbrain.nnet.losses.ctc_loss
    blank_index: !ref <blank_index>

asr_model: !new:torch.nn.ModuleList
    - [!ref <enc>, !ref <ctc_lin>]

tokenizer: !new:|tokenizer|

encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    wav2vec2: !ref <wav2vec2>
    enc: !ref <enc>
    ctc_lin: !ref <ctc_lin>
    log_softmax: !ref <log_softmax>

decoding_function: !name:|decoder|

modules:
    encoder: !ref <encoder>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        wav2vec2: !ref <wav2vec2>
        asr: !ref <asr_model>
        tokenizer: !ref <tokenizer>
"""
_FORMS = {
    "sequential": {
        "enc": _SEQUENTIAL,
        "wav2vec2": "speechbrain.lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2",
        "tokenizer": "sentencepiece.SentencePieceProcessor",
        "decoder": (
            "speechbrain.decoders.CTCBeamSearcher\n    blank_index: !ref <blank_index>\n"
            "    beam_size: 100\n    beam_prune_logp: -12.0"
        ),
        "outputs": str(len(PIECES)),
    },
    "vanilla": {
        "enc": _VANILLA,
        "wav2vec2": "speechbrain.lobes.models.huggingface_wav2vec.HuggingFaceWav2Vec2",
        "tokenizer": "speechbrain.dataio.encoder.CTCTextEncoder",
        "decoder": "speechbrain.decoders.ctc_greedy_decode\n    blank_id: !ref <blank_index>",
        "outputs": str(len(LABELS)),
    },
}
FORMS = tuple(_FORMS)


class _Norm(nn.Module):
    """speechbrain.nnet.normalization.BatchNorm1d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, states: Tensor) -> Tensor:
        normed: Tensor = self.norm(states.transpose(-1, 1)).transpose(1, -1)
        return normed


class _Linear(nn.Module):
    """speechbrain.nnet.linear.Linear."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = nn.Linear(inputs, outputs)

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = self.w(states)
        return product


class Reference(nn.Module):
    """What SpeechBrain computes of one recording's samples [1, samples]."""

    def __init__(self, form: str, *, output_norm: bool, do_normalize: bool, **changes: Any) -> None:
        super().__init__()
        self.model = Wav2Vec2Model(tiny_encoder(**changes))
        widths = [WIDTH, NEURONS, NEURONS, NEURONS][: 4 if form == "sequential" else 3]
        self.enc = nn.Sequential()
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            if form == "sequential":
                self.enc.add_module(f"linear{number + 1}", _Linear(inputs, outputs))
                self.enc.add_module(f"bn{number + 1}", _Norm(outputs))
            else:
                name = "linear" if number == 0 else f"linear_{number - 1}"
                self.enc.add_module(name, _Linear(inputs, outputs))
            self.enc.add_module(f"act{number}", nn.LeakyReLU())
        self.ctc_lin = _Linear(NEURONS, int(_FORMS[form]["outputs"]))
        self._norms = do_normalize, output_norm

    def forward(self, wav: Tensor) -> Tensor:
        if self._norms[0]:
            wav = functional.layer_norm(wav, wav.shape[1:])
        out = self.model(wav, attention_mask=None).last_hidden_state
        if self._norms[1]:
            out = functional.layer_norm(out, out.shape[1:])
        logits: Tensor = self.ctc_lin(self.enc(out))
        return logits


def tiny_encoder(**changes: Any) -> Wav2Vec2Config:
    """Return the config of an encoder of toy size, as wav2vec2-large-lv60's except for sizes."""
    own = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": (32, 32, 32),
        "conv_kernel": (10, 8, 8),
        "conv_stride": (8, 8, 8),
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    return Wav2Vec2Config(**{**own, **changes})


def make_speechbrain(
    folder: Path,
    form: str = "sequential",
    *,
    output_norm: bool = True,
    do_normalize: bool = True,
    older_names: bool = False,
    **changes: Any,
) -> Reference:
    """Write a whole folder.

    Args:
        folder: The folder to create.
        form: "sequential" with batch norms, as commonvoice-14-en, or "vanilla", as librispeech.
        output_norm: Normalise the encoder's outputs.
        do_normalize: Normalise samples.
        older_names: Spell the weight norm as torch did before release 2.
        changes: Other values of the encoder's config.

    Returns:
        What it computes.
    """
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Reference(form, output_norm=output_norm, do_normalize=do_normalize, **changes)
        model.eval().requires_grad_(False)
        _sharpen(model)
    torch.save(_encoder_state(model, older=older_names), folder / "wav2vec2.ckpt")
    head = nn.ModuleList([model.enc, model.ctc_lin])
    torch.save(head.state_dict(), folder / "asr.ckpt")
    model.model.config.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=do_normalize).save_pretrained(folder)
    write_hyperparams(folder, form, output_norm=str(output_norm))
    tokenizer = sentencepiece(PIECES) if form == "sequential" else text_encoder(LABELS)
    (folder / "tokenizer.ckpt").write_bytes(tokenizer)
    return model


def _sharpen(model: Reference) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("original0"):
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.weight, module.running_var):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            for tensor in (module.bias, module.running_mean):
                tensor.normal_()
    model.ctc_lin.w.weight.normal_()
    model.ctc_lin.w.bias[[1, 2]] = -100.0  # never a special token


def _encoder_state(model: Reference, *, older: bool) -> dict[str, Tensor]:
    spelled = {"parametrizations.weight.original0": "weight_g"} if older else {}
    spelled |= {"parametrizations.weight.original1": "weight_v"} if older else {}
    state = {}
    for name, tensor in model.model.state_dict().items():
        for new, old in spelled.items():
            name = name.replace(new, old)
        state[f"model.{name}"] = tensor
    return state


def write_hyperparams(folder: Path, form: str = "sequential", **changes: str) -> Path:
    """Write a folder's `hyperparams.yaml`, some of its values changed; return the file."""
    values = {"neurons": str(NEURONS), "output_norm": "True", **_FORMS[form], **changes}
    text = _HYPERPARAMS
    for name, value in values.items():
        text = text.replace(f"|{name}|", value)
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    return folder / "hyperparams.yaml"


def sentencepiece(pieces: list[str], *others: bytes) -> bytes:
    """Return a SentencePiece model: unknown, two controls, then plain pieces; other fields."""
    kinds = [2, 3, 3, *[1] * len(pieces)]
    parts = [
        _field(1, _field(1, piece.encode()) + b"\x15\0\0\0\0" + bytes([0x18, kind]))
        for piece, kind in zip(pieces, kinds, strict=False)
    ]
    return b"".join([*parts, *others])


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def text_encoder(labels: list[str]) -> bytes:
    """Return what `CTCTextEncoder.save` writes."""
    lines = [f"{label!r} => {number}\n" for number, label in enumerate(labels)]
    extras = {"starting_index": 0, "bos_label": "<bos>", "eos_label": "<eos>"}
    extras["blank_label"] = "<blank>"
    named = [f"{key!r} => {value!r}\n" for key, value in extras.items()]
    return "".join([*lines, "================\n", *named]).encode()
