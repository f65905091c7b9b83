"""Shards: fixed lists of clips, each heard in one go, whose results are files in a store."""
