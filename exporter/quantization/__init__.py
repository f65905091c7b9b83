"""Quantization: the scheme of each module, and the numbers that are stored for it."""
