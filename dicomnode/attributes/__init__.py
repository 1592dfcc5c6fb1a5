"""Data elements in, normalised text and trimmed headers out: what the catalogue keeps and what identifiers carry."""
