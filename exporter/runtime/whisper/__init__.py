"""Whisper: log-mel features, generation rules, search, long recordings, text."""
