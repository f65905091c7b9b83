"""Artifacts and originals opened, and audio transcribed."""
