"""What each plant changes, measured without the validator: to grade its severity."""

import json
import multiprocessing
import shutil
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import torch
from torch import Tensor

import exporter
from exporter.recipe import Decoding
from tests.damage.grounds import GROUNDS, Ground
from tests.damage.judging import planted
from tests.damage.onnx_graphs import graph_path
from tests.damage.planting import Plant

_CLIPS = 5
Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Heard:
    """What an artifact computes on a few clips.

    Attributes:
        logits: Of each clip [tokens, vocabulary], teacher-forced along the text of the manifest;
            or of its frames, where there is no decoder.
        merged: The same of the merged decoder, where there is one.
        texts: What it transcribes.
    """

    logits: list[Values]
    merged: list[Values]
    texts: list[str]


def print_effects(plants: Sequence[Plant]) -> None:
    """Print per plant: mean KL and top-1 agreement with the undamaged artifact, texts changed."""
    print(f"{'severity':<9}{'plant':<40}{'KL':>10}{'top-1':>7}{'KL merged':>11}{'texts':>7}")
    undamaged: dict[tuple[str, str], Heard] = {}
    for each in plants:
        ground = GROUNDS[each.ground]
        key = each.ground, each.artifact
        if key not in undamaged:
            undamaged[key] = _heard(ground.artifact(each.artifact), ground)
        folder = planted(each, "effects")
        told = _effect(undamaged[key], folder, ground)
        shutil.rmtree(folder)
        print(f"{each.severity:<9}{each.name:<40}{told}", flush=True)


def _effect(before: Heard, folder: Path, ground: Ground) -> str:
    fork = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(1, fork) as pool:  # native code may crash
            after = pool.submit(_heard, folder, ground).result()
    except Exception as error:  # whatever a damaged artifact raises is its effect
        last = traceback.extract_tb(error.__traceback__)[-1]
        first = (str(error).splitlines() or [""])[0]
        return f"{type(error).__name__} ({Path(last.filename).name}): {first[:90]}"
    changed = sum(a != b for a, b in zip(before.texts, after.texts, strict=True))
    kl, agree = _distance(before.logits, after.logits)
    merged = f"{_distance(before.merged, after.merged)[0]:11.1e}" if before.merged else f"{'-':>11}"
    return f"{kl:10.1e}{agree:7.2f}{merged}{changed:4}/{len(before.texts)}"


def _distance(before: Sequence[Values], after: Sequence[Values]) -> tuple[float, float]:
    """Return the mean KL divergence over steps, in nats, and the share of equal best tokens."""
    one, other = (torch.from_numpy(np.concatenate(side)).double() for side in (before, after))
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return float(kl), float((one.argmax(-1) == other.argmax(-1)).double().mean())


def _heard(folder: Path, ground: Ground) -> Heard:
    recogniser = exporter.load(folder, threads=1, trust=True)
    lines = (ground.clips / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = rows[:: max(1, len(rows) // _CLIPS)][:_CLIPS]
    sounds = [soundfile.read(ground.clips / row["audio"], dtype="float32")[0] for row in rows]
    processor = recogniser.processor
    logits, merged = [], []
    for row, sound in zip(rows, sounds, strict=True):
        window = sound[: recogniser.family.window(processor)]
        if ground.ctc:
            logits.append(_frames(recogniser, window))
            continue
        features = processor.feature_extractor(
            window, sampling_rate=recogniser.sampling_rate, return_tensors="pt"
        ).input_features
        ids = _ids(ground, row["text"])
        with torch.inference_mode():
            out = recogniser.model(input_features=features, decoder_input_ids=ids)
        logits.append(out.logits[0].float().numpy())
        if list(folder.rglob("*.onnx")):
            merged.append(_merged(folder, features, ids))
    texts = [transcript.text for transcript in recogniser.decode(sounds, _decoding(recogniser))]
    return Heard(logits, merged, texts)


def _frames(recogniser: Any, samples: Values) -> Values:
    """Return the logits of a model without a decoder, of each frame."""
    forcing = recogniser.family.forcing
    heard = forcing.own_features(recogniser.model, recogniser.processor, [samples])
    values: Values = forcing.forced(recogniser.model, heard, heard, [1]).logits[0].numpy()
    return values


def _decoding(recogniser: Any) -> Decoding:
    decoding: Decoding = recogniser.decoding
    return decoding


def _ids(ground: Ground, text: str) -> Tensor:
    """Return prompt and text by the original's own tokenizer."""
    from transformers import WhisperTokenizer

    tokenizer = WhisperTokenizer.from_pretrained(ground.checkpoint)
    ids = tokenizer(f" {text}").input_ids[:-1]
    return torch.tensor([ids])


def _merged(folder: Path, features: Tensor, ids: Tensor) -> Values:
    """Call the merged decoder as its loaders do: all tokens but one, then one with the cache."""
    encoder = onnxruntime.InferenceSession(graph_path(folder, "encoder_model"))
    decoder = onnxruntime.InferenceSession(graph_path(folder, "decoder_model_merged"))
    (states,) = encoder.run(None, {"input_features": features.numpy()})
    given = {i.name: i for i in decoder.get_inputs()}
    past = {
        name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        for name, value in given.items()
        if name.startswith("past")
    }
    feed = {"input_ids": ids[:, :-1].numpy(), "encoder_hidden_states": states, **past}
    names = [output.name for output in decoder.get_outputs()]
    first = dict(
        zip(names, decoder.run(None, {**feed, "use_cache_branch": np.array([False])}), strict=True)
    )
    present = {name: first[name.replace("past_key_values", "present")] for name in past}
    feed = {"input_ids": ids[:, -1:].numpy(), "encoder_hidden_states": states, **present}
    (last, *_) = decoder.run(None, {**feed, "use_cache_branch": np.array([True])})
    return np.concatenate([first["logits"][0], last[0]])
