"""CTC models: features, chunks of long recordings, and the text of frames."""
