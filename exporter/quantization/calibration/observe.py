"""Calibrate static quantization: the ranges of modules' inputs in the float original.

One pass over recordings, with a histogram for each module: memory does not grow with the number of
recordings, and all methods choose from the same counts.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from exporter.errors import BuildError
from exporter.quantization.calibration.histogram import Histogram


def observe(
    model: nn.Module, modules: Sequence[str], runs: Iterable[tuple[str, Callable[[], object]]]
) -> dict[str, Histogram]:
    """Count the inputs of modules while a model runs.

    Args:
        model: The original, in float32.
        modules: The names of the modules.
        runs: For each recording its name, and what runs the model on it.

    Returns:
        A histogram for each module.

    Raises:
        BuildError: An input is not finite, or a module never ran.
    """
    histograms = {name: Histogram() for name in modules}
    current = [""]

    def watch(name: str) -> Callable[..., None]:
        def count(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            if not histograms[name].add(inputs[0]):
                msg = (
                    f"{name} gets NaN or infinity from the float original at {current[0]}: leave "
                    "the recording out, or do not make the module `static-int8`"
                )
                raise BuildError(msg)

        return count

    handles = [model.get_submodule(n).register_forward_pre_hook(watch(n)) for n in modules]
    try:
        for recording, run in runs:
            current[0] = recording
            run()
    finally:
        for handle in handles:
            handle.remove()
    idle = [name for name, each in histograms.items() if not each.total]
    if idle:
        msg = f"{idle[0]} never ran while its range was calibrated: it cannot be `static-int8`"
        raise BuildError(msg)
    return histograms
