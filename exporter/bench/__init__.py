"""Time whole transcriptions side by side."""

from exporter.errors import require_extra

require_extra("build")
