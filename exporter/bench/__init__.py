"""Whole transcriptions timed side by side."""
