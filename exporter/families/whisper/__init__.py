"""Whisper: log-mel in, byte-level tokens out, over a window of fixed length.

The family itself is in `family`; here are the facts that need no torch.
"""

MODEL_TYPES = ("whisper",)
