"""Times of words in Whisper's windows, from the attention of its alignment heads."""
