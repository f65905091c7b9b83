"""The features of recordings, of any length."""
