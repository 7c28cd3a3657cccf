"""Public corpora: their captions to data for training, and oracle regions."""
