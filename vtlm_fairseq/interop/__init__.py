"""Checkpoints of the paper's own code: reading, converting and checking them."""
