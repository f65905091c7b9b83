"""Commands whose heavy steps run in this process, which spares ten seconds of importing each."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from exporter.system import worker
from exporter.system.progress import Progress


def _run(
    step: str,
    request: Mapping[str, Any],
    progress: Progress,
    *,
    on_result: Callable[[Any], None] = lambda _: None,
    **_how: object,
) -> object:
    module, _, function = step.partition(":")
    asked = json.loads(json.dumps(request))
    answer = getattr(import_module(module), function)(asked, progress)
    if isinstance(answer, Iterator):
        for each in answer:
            on_result(json.loads(json.dumps(each)))
        answer = {}
    return {"seconds": 1.0, "peak_rss_bytes": 1, **json.loads(json.dumps(answer))}


@contextmanager
def steps_in_process() -> Iterator[None]:
    """Run steps here, where a test is about something else than their processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "run", _run)
        yield
