"""Measurements in fresh processes: transcripts of a corpus, latency, memory, unusual shapes."""
