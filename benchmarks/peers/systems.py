"""Who is measured: environments, conversions, and settings, as plain data.

Each rival runs at the setting that was its fastest for one window on the machines tried; what was
tried and lost is told beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OWN = "this one"  # the environment that the benchmark itself runs in
TORCH = "torch==2.13.0"  # pinned exactly, and first: so pip can take a CPU build


@dataclass(frozen=True)
class Conversion:
    """A command that makes one rival's model of a checkpoint, and what is needed beside it.

    `command` is split into words, then filled: {python} and {bin} of the environment, {checkpoint},
    {output}, {recipe}. `model` is the model's place in {output}, `copied` what the loader needs of
    the checkpoint and the command leaves out.
    """

    environment: str
    command: str
    model: str = "."
    copied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rival:
    """One row: a worker of benchmarks/peers/workers in an environment, on a conversion (or none).

    `variables` are added to what every worker finds in its process's environment.
    """

    label: str
    environment: str
    worker: str
    conversion: str | None
    options: dict[str, Any] = field(default_factory=dict)
    warmups: int = 1
    variables: dict[str, str] = field(default_factory=dict)


# What runs an artifact alone, without PyTorch.
RUNTIMES: dict[str, tuple[str, ...]] = {
    "runtime": ("{root}",),
    "runtime-onnx": ("{root}[onnxruntime]",),
    "runtime-faster-whisper": ("faster-whisper==1.2.1", "ctranslate2==4.8.5"),
}
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    **RUNTIMES,
    "faster-whisper": ("faster-whisper==1.2.1", "ctranslate2==4.8.5", "transformers==4.57.6"),
    "openvino": (
        *("optimum-intel==2.2.0", "openvino==2026.4.1", "openvino-genai==2026.4.1.0"),
        *("openvino-tokenizers==2026.4.1.0", "nncf==3.4.0", "transformers==5.5.4"),
    ),
    "optimum": (
        *("optimum-onnx==0.1.0", "optimum==2.1.0", "onnxruntime==1.31.1", "onnx==1.23.2"),
        *("transformers==4.57.6", "accelerate==1.15.0", "click"),
    ),
    "openai-whisper": ("openai-whisper==20250625", "safetensors"),
}
# optimum-intel asks for it, Whisper does not need it, and PyPI's build does not load beside a CPU
# build of torch: everything that looks for it then fails.
UNWANTED: dict[str, tuple[str, ...]] = {"openvino": ("torchvision",)}
_BUILD = "{python} -m exporter build {recipe} --target %s --output {output} --force --json"
# Below what this machine has, as a CPU without them would be given it; aoti is the first target.
_AVX512 = " --set targets.0.march=x86-64-v4 --set targets.0.vnni=false --set targets.0.bf16=false"
_AVX2 = " --set targets.0.march=x86-64-v3"
_CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json")
CONVERSIONS: dict[str, Conversion] = {
    **{
        kind: Conversion(OWN, _BUILD % kind, model=f"peer/{kind}")
        for kind in ("aoti", "onnx-int8", "torch-int8")
    },
    "aoti-avx512": Conversion(OWN, _BUILD % "aoti" + _AVX512, model="peer/aoti"),
    "aoti-avx2": Conversion(OWN, _BUILD % "aoti" + _AVX2, model="peer/aoti"),
    "aoti-marked": Conversion(OWN, "{python} -m benchmarks.profiling.build {checkpoint} {output}"),
    "ctranslate2-int8": Conversion(
        "faster-whisper",
        "{bin}/ct2-transformers-converter --model {checkpoint} --output_dir {output} "
        "--quantization int8 --copy_files tokenizer.json preprocessor_config.json",
    ),
    "openvino-int8": Conversion(
        "openvino",
        "{bin}/optimum-cli export openvino --model {checkpoint} "
        "--task automatic-speech-recognition-with-past --weight-format int8 {output}",
    ),
    "optimum-avx512_vnni": Conversion(
        "optimum",
        "{python} -m benchmarks.build_cost.optimum {checkpoint} {output}",
        copied=_CONFIGS,
    ),
    "ctc-ctranslate2-int8": Conversion(
        "faster-whisper",
        "{bin}/ct2-transformers-converter --model {checkpoint} --output_dir {output} "
        "--quantization int8",
    ),
    "ctc-optimum-avx512_vnni": Conversion(
        "optimum",
        "{python} -m benchmarks.peers.workers.ctc.optimum_convert {checkpoint} {output}",
    ),
    "openai": Conversion(
        "openai-whisper",
        "{python} -m benchmarks.peers.workers.openai_convert {checkpoint} {output}",
    ),
}
RIVALS: dict[str, Rival] = {
    "aoti": Rival("aoti", OWN, "exporter_worker", "aoti"),
    "onnx-int8": Rival("onnx-int8", OWN, "exporter_worker", "onnx-int8"),
    "torch-int8": Rival("torch-int8", OWN, "exporter_worker", "torch-int8"),
    # int8_float32 is the same on a CPU; int8_bfloat16 and bfloat16 want MKL, which CTranslate2
    # takes on Intel alone (forced elsewhere, it is seven times slower).
    "faster-whisper": Rival(
        "faster-whisper int8",
        *("faster-whisper", "faster_whisper_worker", "ctranslate2-int8"),
        {"compute_type": "int8"},
    ),
    # The plugin's own group size for dynamic quantization is as fast as any, off is slower.
    "openvino-bf16": Rival(
        "OpenVINO GenAI int8, bf16",
        *("openvino", "openvino_worker", "openvino-int8"),
        {"precision": "bf16"},
    ),
    "openvino-f32": Rival(
        "OpenVINO GenAI int8, f32",
        *("openvino", "openvino_worker", "openvino-int8"),
        {"precision": "f32"},
    ),
    # Slower for one window, but it takes batches and beams.
    "optimum-intel": Rival(
        "optimum-intel int8, bf16",
        *("openvino", "optimum_intel_worker", "openvino-int8"),
        {"precision": "bf16"},
    ),
    # I/O binding is slower on a CPU.
    "optimum": Rival(
        "optimum avx512_vnni",
        *("optimum", "optimum_worker", "optimum-avx512_vnni"),
    ),
    "openai-whisper": Rival("openai-whisper float32", "openai-whisper", "openai_worker", "openai"),
    "eager": Rival(
        "transformers float32", "optimum", "transformers_worker", None, {"dtype": "float32"}
    ),
    "eager-bf16": Rival(
        "transformers bfloat16", "optimum", "transformers_worker", None, {"dtype": "bfloat16"}
    ),
    "compiled": Rival(
        "transformers torch.compile",
        *("optimum", "transformers_worker", None),
        {"dtype": "float32", "compile": True},
        warmups=3,
    ),
}
# For the first text of a process: benchmarks/peers/first_text.py.
FIRST_TEXT_RIVALS: dict[str, Rival] = {
    "aoti": Rival("aoti", "runtime", "exporter_worker", "aoti", warmups=0),
    "onnx-int8": Rival("onnx-int8", "runtime-onnx", "exporter_worker", "onnx-int8", warmups=0),
    "faster-whisper": Rival(
        "faster-whisper int8",
        *("runtime-faster-whisper", "faster_whisper_worker", "ctranslate2-int8"),
        {"compute_type": "int8"},
        warmups=0,
    ),
}
# For long recordings: benchmarks/peers/recordings.py. Workers warm up by themselves.
_SEQUENTIAL, _CHUNKED = {"chunked": False}, {"chunked": True, "batch": 8}
RECORDING_RIVALS: dict[str, Rival] = {
    **{
        f"{kind}{ending}": Rival(
            f"{kind}{told}", OWN, "recordings.exporter_worker", kind, options, warmups=0
        )
        for ending, told, options in (
            ("", "", _SEQUENTIAL),
            ("-chunked", ", chunks of speech", _CHUNKED),
        )
        for kind in ("aoti", "onnx-int8")
    },
    **{
        f"faster-whisper{ending}": Rival(
            f"faster-whisper int8{told}",
            *("faster-whisper", "recordings.faster_whisper_worker", "ctranslate2-int8"),
            {"compute_type": "int8", **options},
            warmups=0,
        )
        for ending, told, options in (
            ("", "", _SEQUENTIAL),
            ("-batched", ", batched", _CHUNKED),
        )
    },
}
# For CTC checkpoints: benchmarks/peers/ctc.py.
CTC_RIVALS: dict[str, Rival] = {
    "aoti": Rival("aoti", OWN, "ctc.exporter_worker", "aoti"),
    "onnx-int8": Rival("onnx-int8", OWN, "ctc.exporter_worker", "onnx-int8"),
    "torch-int8": Rival("torch-int8", OWN, "ctc.exporter_worker", "torch-int8"),
    "ctranslate2": Rival(
        "CTranslate2 int8",
        *("faster-whisper", "ctc.ctranslate2_worker", "ctc-ctranslate2-int8"),
        {"compute_type": "int8"},
    ),
    "optimum": Rival(
        "optimum avx512_vnni", "optimum", "ctc.optimum_worker", "ctc-optimum-avx512_vnni"
    ),
    "torch-dynamic": Rival(
        "torch quantize_dynamic", "optimum", "ctc.transformers_worker", None, {"int8": True}
    ),
    "eager": Rival("transformers float32", "optimum", "ctc.transformers_worker", None),
}
