"""Write the model card, README.md, from the manifest and the report alone.

All figures come from these two files, unfavourable ones included. The licence comes from the recipe
(`hub.license`), since neither a manifest nor a report has it.
"""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from exporter import DISTRIBUTION
from exporter.artifact.evidence import short
from exporter.artifact.report import Interval
from exporter.artifact.store import is_signed
from exporter.artifact.trust import code
from exporter.errors import extras_for
from exporter.families import family_facts
from exporter.formats.config_json import read_json
from exporter.hub.drawing import interval_svg, standalone
from exporter.hub.eligibility import PublishableArtifact
from exporter.system.accelerators import in_words
from exporter.system.hardware import features_in_words
from exporter.system.progress import shown_bytes
from exporter.system.text import harmless, in_markdown

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD = "README.md"
PICTURE = "wer.svg"
_TEMPLATE = "model_card.md.j2"
_TASK = "automatic-speech-recognition"
# Models of no class of transformers, whose configs its loaders do not read.
_OURS = ("speechbrain-wav2vec2-ctc",)


def render(proof: PublishableArtifact, repo: str) -> dict[str, bytes]:
    """Render the card of an artifact and its picture.

    Args:
        proof: The artifact and its report.
        repo: `ORG/NAME` that the card is for.

    Returns:
        The bytes of both files by name.
    """
    judged = proof.report
    picture = interval_svg(judged.wer_difference, judged.gate.max_wer_increase)
    return {CARD: _text(proof, repo).encode(), PICTURE: standalone(picture).encode()}


def _text(proof: PublishableArtifact, repo: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    manifest, judged = proof.manifest, proof.report
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, which `_inert` escapes
        finalize=_inert,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(_FILTERS)
    return environment.get_template(_TEMPLATE).render(
        metadata=_typed_lines(_metadata(proof).to_yaml()),
        repo=Markup(repo),  # checked by its pattern
        licence=_licence(proof),
        base_model=_base_model(proof),
        install=_install(proof),
        rebuild=_install(proof, "validate"),
        cpu=features_in_words(manifest.needs.cpu_features),
        kind=manifest.kind,
        original=_original(proof),
        rebuilt_from=_pinned(proof),
        generate=_generate(proof),
        clips=_clips(proof),
        report=judged,
        manifest=manifest,
        device=in_words(manifest.needs.device),
        gpu=_gpu(proof),
        machine=judged.environment.machine,
        ours=judged.reference_figures,
        its=judged.figures,
        picture=PICTURE,
        optimum=_optimum_class(proof),
        javascript=_for_javascript(proof),
        spoken=_spoken(proof),
        native=bool(code(manifest)),
        signed=is_signed(proof.folder),
        read_again=proof.corpus_read_again,
    )


def _gpu(proof: PublishableArtifact) -> str | None:
    """Return what the artifact needs of a GPU, as words; None if it needs none."""
    gpu = proof.manifest.needs.gpu
    return gpu.as_needs().in_full() if gpu else None


def _metadata(proof: PublishableArtifact) -> "ModelCardData":
    """Return the front matter, from which the Hub takes a model's metadata."""
    from huggingface_hub import ModelCardData

    manifest = proof.manifest
    onnx = ["onnx"] if _graphs(proof) else []
    return ModelCardData(
        base_model=_base_model(proof),
        base_model_relation="quantized" if manifest.checkpoint.revision else None,
        language=proof.report.decoding.language or proof.report.normaliser.language,
        license=_licence(proof),
        library_name=_library(proof),
        pipeline_tag=_TASK,
        tags=["exporter", manifest.family, manifest.kind, *onnx, manifest.needs.device],
        model_name=f"{manifest.recipe.name} {manifest.kind}",
        eval_results=_results(proof),
    )


def missing(proof: PublishableArtifact) -> list[str]:
    """Return what the card does not name, each with the key of the recipe that would."""
    facts = {
        "licence (hub.license)": _licence(proof),
        "base model (hub.base_model)": _base_model(proof),
    }
    return [name for name, fact in facts.items() if fact is None]


def _licence(proof: PublishableArtifact) -> str | None:
    return proof.recipe.hub.license if proof.recipe.hub else None


def _base_model(proof: PublishableArtifact) -> str | None:
    """Return the Hub id of the checkpoint, or else of the model that the recipe names."""
    origin, hub = proof.manifest.checkpoint, proof.recipe.hub
    if origin.revision:
        return origin.source.partition("@")[0]
    return hub.base_model if hub else None


def _results(proof: PublishableArtifact) -> "list[EvalResult]":
    """Return the rates in percent, as other cards have them, under the data's name and revision.

    The revision of clips that are not on the Hub is the digest of their names, sounds and texts.
    """
    from huggingface_hub import EvalResult

    judged, data = proof.report, proof.recipe.data
    where: dict[str, Any] = {
        "dataset_type": "clips",
        "dataset_name": _clips(proof),
        "dataset_revision": judged.data.sha256,
    }
    if data and data.dataset:
        where = {
            "dataset_type": data.dataset,
            "dataset_name": data.dataset,
            "dataset_config": data.config,
            "dataset_split": data.split or "test",
            "dataset_revision": data.revision,
        }
    return [
        EvalResult(
            task_type=_TASK,
            metric_type=metric,
            metric_name=f"{metric.upper()}, in percent",
            metric_value=round(100 * value, 2),
            **where,
        )
        for metric, value in (("wer", judged.figures.wer), ("cer", judged.figures.cer))
    ]


def _original(proof: PublishableArtifact) -> Markup:
    """Return Markdown for the checkpoint: a link to its commit, or a folder's name."""
    origin = proof.manifest.checkpoint
    if not origin.revision:
        return _code(Path(origin.source).name)
    repo = origin.source.partition("@")[0]
    return _link(repo, f"{repo}/tree/{origin.revision}")


def _link(text: str, path: str) -> Markup:
    """Return Markdown for a link to the Hub."""
    return Markup(f"[{in_markdown(text)}](https://huggingface.co/{quote(path)})")


def _pinned(proof: PublishableArtifact) -> str:
    """Return the `--checkpoint` value that builds from the same checkpoint."""
    origin = proof.manifest.checkpoint
    return f"{origin.source.partition('@')[0]}@{origin.revision}" if origin.revision else "FOLDER"


def _clips(proof: PublishableArtifact) -> str:
    """Return the name of the data: a dataset of the Hub, or a folder's name."""
    data, source = proof.recipe.data, proof.report.data.source
    return source if data and data.dataset else Path(source).name


def _generate(proof: PublishableArtifact) -> Markup:
    """Return the argument with which a pipeline decodes as the report's run did; may be empty."""
    options, beams = _spoken(proof), proof.report.decoding.num_beams
    if beams > 1:
        options["num_beams"] = beams
    return Markup(f", generate_kwargs={json.dumps(options)}" if options else "")


def _spoken(proof: PublishableArtifact) -> dict[str, Any]:
    """Return the language and task of the decoding, where they are set and models are told them."""
    if "task" not in family_facts(proof.manifest.family).DECODING:
        return {}
    decoding = proof.report.decoding
    options = {"language": decoding.language, "task": decoding.task}
    return {name: value for name, value in options.items() if value}


def _install(proof: PublishableArtifact, extra: str = "hub") -> Markup:
    """Return the command that installs what the artifact needs, and an extra."""
    needs = proof.manifest.needs
    known = extras_for(needs.packages, needs.device)
    needed = [name for name in known if name != "build"]
    if extra == "hub" and len(needed) < len(known):
        extra = "build"  # which includes `hub`
    return Markup(f"pip install '{DISTRIBUTION}[{','.join([extra, *needed])}]'")


def _optimum_class(proof: PublishableArtifact) -> str | None:
    """Return the class of optimum that loads the artifact as it is; None if there is none."""
    if read_json(proof.folder / "config.json").get("model_type") in _OURS:
        return None
    names = {path.stem.removesuffix("_quantized") for path in _graphs(proof)}
    if "encoder_model" in names:
        return "ORTModelForSpeechSeq2Seq"
    return "ORTModelForCTC" if "model" in names else None


def _for_javascript(proof: PublishableArtifact) -> bool:
    """Return True if the graphs lie where transformers.js looks for them."""
    return any(path.parent.name == "onnx" for path in _graphs(proof))


def _library(proof: PublishableArtifact) -> str:
    """Return the library whose code snippet the Hub shows for the model."""
    if _for_javascript(proof):
        return "transformers.js"
    return "optimum" if _optimum_class(proof) else "exporter"


def _graphs(proof: PublishableArtifact) -> list[PurePosixPath]:
    paths = [PurePosixPath(file.path) for file in proof.manifest.files]
    return [path for path in paths if path.suffix == ".onnx"]


def _inert(value: object) -> object:
    """Return text that Markdown shows as it is; markup of this module stays."""
    return in_markdown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _typed(text: str) -> Markup:
    """Return text for a block of code."""
    return Markup(harmless(text))


def _typed_lines(text: str) -> Markup:
    return Markup("\n").join(map(_typed, text.split("\n")))


def _code(text: str) -> Markup:
    return Markup(f"`{harmless(text).replace('`', chr(39))}`")


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _points(change: Interval) -> str:
    ends = f"{100 * change.low:+.2f}, {100 * change.high:+.2f}"
    return f"{100 * change.value:+.2f} [{ends}] points"


def _times(ratio: Interval) -> str:
    return f"x {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _seconds(value: float) -> str:
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


_FILTERS: dict[str, Callable[..., str]] = {
    "bytes": shown_bytes,
    "code": _code,
    "hub_link": lambda repo: _link(repo, repo),
    "percent": _percent,
    "points": lambda change: Markup(_points(change)),
    "seconds": _seconds,
    "short": short,
    "times": lambda ratio: Markup(_times(ratio)),
    "typed": _typed,
}
