"""What tests share: doubles, small models, damaged files, and helpers."""
