"""The Hugging Face Hub: requests, downloads, pushes and pulls."""
