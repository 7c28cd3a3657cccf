"""Checkpoints of the paper's own code: reading, converting and checking them."""

ABSOLUTE = 2e-5  # how far states and logits may be from those of the paper's code
