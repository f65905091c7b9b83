"""What optimum exports of a checkpoint."""

from pathlib import Path
from typing import Any

from exporter.checkpoint.checkpoint import open_checkpoint


def export_with_optimum(checkpoint: Path, folder: Path, **how: Any) -> Path:
    """Run optimum's exporter; the example's frames must fit the checkpoint's window."""
    from optimum.exporters.onnx import main_export

    main_export(
        str(checkpoint),
        folder,
        task="automatic-speech-recognition-with-past",
        do_validation=False,
        local_files_only=True,
        nb_max_frames=2 * open_checkpoint(str(checkpoint)).config["max_source_positions"],
        **how,
    )
    return folder
