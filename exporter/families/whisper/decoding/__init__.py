"""From audio to text: the original by `generate`, artifacts by `exporter.runtime.whisper`."""
