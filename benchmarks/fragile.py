"""Let `exporter tune` find a plan for a checkpoint that does not bear int8, and draw the search.

The demo's Whisper or wav2vec2 is changed so that its function stays as it is, but six channels of
some activations are far larger than the others. Twenty of the demo's clips rank the groups, the
others judge.

    python -m benchmarks.fragile whisper --work FOLDER --picture docs/tune.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from benchmarks.schemes import RECIPES, WHISPER, ran, split_clips
from exporter.hub.drawing import standalone
from exporter.targets import TARGETS
from exporter.tune.plots import size_front
from exporter.tune.results import Figures
from tests.support.fragile import make_fragile

WER_INCREASE = 0.05  # that the gate allows: six minutes of speech prove no less
BLOCKS: dict[str, tuple[list[str], str]] = {
    "whisper": (["model.encoder.layers.1", "model.encoder.layers.2"], "fc1"),
    "ctc": (
        ["wav2vec2.encoder.layers.1", "wav2vec2.encoder.layers.2"],
        "feed_forward.intermediate_dense",
    ),
}


@click.command()
@click.argument("demo", type=click.Choice(list(BLOCKS)))
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Files go here.")
@click.option("--target", type=click.Choice(list(TARGETS)), default="torch-int8")
@click.option("--for", "goal", type=click.Choice(["speed", "size"]), default="size")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the plans that were judged.")
def main(demo: str, work: Path, target: str, goal: str, picture: Path | None) -> None:
    """Tell what was found for a fragile DEMO."""
    work.mkdir(parents=True, exist_ok=True)
    calibrating, judging = split_clips(work.resolve())
    checkpoint = work.resolve() / demo
    if not checkpoint.exists():
        blocks, fed = BLOCKS[demo]
        make_fragile(RECIPES / "demo" / demo, checkpoint, blocks, fed=fed)
    recipe: dict[str, Any] = {
        "name": f"fragile-{demo}",
        "checkpoint": str(checkpoint),
        "targets": [{"kind": target}],
        "data": {"clips": str(judging)},
        "gate": {"max_wer_increase": WER_INCREASE, "max_latency_ratio": 9.0, "min_clips": 50},
        "decoding": WHISPER if demo == "whisper" else {"chunk_length_s": 10},
    }
    path = work / f"fragile-{demo}.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(recipe, stream)
    found = work / f"fragile-{demo}-{target}.yaml"
    files = ["--clips", str(calibrating), "--output", str(found), "--force"]
    ran("exporter", "tune", str(path), "--for", goal, *files)
    figures = Figures.model_validate_json(found.with_suffix(".json").read_bytes())
    click.echo(table(figures))
    if picture:
        drawn = size_front(figures.trials, figures.chosen, WER_INCREASE)
        picture.write_text(standalone(drawn), encoding="utf-8")


def table(figures: Figures) -> str:
    """Return the plans that were judged, and the groups by the harm that each does alone."""
    lines = [
        f"Kept: {figures.kept or 0:.1%} of the bytes, {figures.kept_time or 0:.1%} of the time.",
        "",
        "| groups quantized | WER | change, points | latency | size | gate |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for place, trial in enumerate(figures.trials):
        name = f"{len(trial.quantized)} of {len(figures.groups)}"
        name += ", chosen" if place == figures.chosen else ""
        change = trial.wer_difference
        cells = [
            name,
            f"{trial.wer:.2%}",
            f"{100 * change.value:+.2f} (at most {100 * change.high:+.2f})",
            f"x {trial.latency_ratio:.2f}",
            f"{trial.size_bytes / 1e6:.2f} MB",
            trial.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| group, quantized alone | KL, nats | same token |", "| --- | --- | --- |"]
    measured = [(row.name, row.effect) for row in figures.groups if row.effect is not None]
    for name, effect in sorted(measured, key=lambda pair: -pair[1].kl_mean):
        lines.append(f"| {name} | {effect.kl_mean:.2g} | {effect.top1:.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
