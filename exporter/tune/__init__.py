"""Find the quantization plan that saves the most and passes a recipe's gate."""

from exporter.errors import require_extra

require_extra("validate")
