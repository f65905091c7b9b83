"""Whisper cut into graphs that targets trace."""
