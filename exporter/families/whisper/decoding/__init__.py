"""From audio to text: features, decoding loops, generation rules."""
