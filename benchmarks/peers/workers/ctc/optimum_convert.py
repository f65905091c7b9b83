"""Export a CTC checkpoint with optimum, and quantize it dynamically, as optimum's guide does.

python -m benchmarks.peers.workers.ctc.optimum_convert checkpoints/wav2vec2-base FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from optimum.onnxruntime import AutoQuantizationConfig, ORTModelForCTC, ORTQuantizer


def convert(checkpoint: Path, folder: Path) -> None:
    """Write FOLDER/model_quantized.onnx and the config beside it."""
    model = ORTModelForCTC.from_pretrained(checkpoint, export=True)
    # The export lies in a temporary folder that is deleted together with `model`.
    quantizer = ORTQuantizer.from_pretrained(model)
    # Of all operators, as is the default, it fails: the exported graph computes the weight norm of
    # the positional convolution, and onnxruntime quantizes only convolutions of stored weights.
    chosen = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=False, operators_to_quantize=["MatMul"]
    )
    quantizer.quantize(save_dir=folder, quantization_config=chosen)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
