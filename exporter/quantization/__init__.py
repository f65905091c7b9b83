"""Which modules are quantized, and the numbers that are stored."""
