"""Build int8 ONNX files the way optimum's own guide does: export in float32, then quantize.

What `run` measures beside this project's builds. Every ONNX file of the export is quantized, as
`ORTModelForSpeechSeq2Seq` needs them all.

    python -m benchmarks.build_cost.optimum checkpoints/whisper-small /tmp/whisper-small-optimum
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from optimum.onnxruntime import AutoQuantizationConfig, ORTModelForSpeechSeq2Seq, ORTQuantizer


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
def main(checkpoint: Path, folder: Path) -> None:
    """Export and quantize CHECKPOINT into FOLDER; tell the seconds of both parts as JSON."""
    started = time.perf_counter()
    model = ORTModelForSpeechSeq2Seq.from_pretrained(checkpoint, export=True)
    exported = time.perf_counter()
    # The export lies in a temporary folder that is deleted together with `model`.
    files = sorted(Path(model.model_save_dir).glob("*.onnx"))
    chosen = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    for file in files:
        quantizer = ORTQuantizer.from_pretrained(file.parent, file_name=file.name)
        quantizer.quantize(save_dir=folder, quantization_config=chosen)
    figures = {
        "export_s": exported - started,
        "quantize_s": time.perf_counter() - exported,
        "files": [file.name for file in files],
    }
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
