"""Open artifacts and originals, and transcribe audio."""
