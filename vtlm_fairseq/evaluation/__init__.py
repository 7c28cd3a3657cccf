"""Scores of translations, and probes of what a model does with the image (section 3 of the paper)."""
