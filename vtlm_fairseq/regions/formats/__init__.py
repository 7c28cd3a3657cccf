"""Formats of other projects that `vtlm-regions convert` reads."""
