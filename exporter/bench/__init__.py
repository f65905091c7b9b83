"""Time whole transcriptions side by side."""
