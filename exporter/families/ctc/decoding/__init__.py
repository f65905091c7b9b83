"""From samples to text: features, chunks of long recordings, and CTC's collapse of frames."""
