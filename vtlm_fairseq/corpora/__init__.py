"""Public corpora."""
