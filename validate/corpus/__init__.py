"""The corpus of a run: its clips, where they come from, and what they can show."""
