"""Data: the region store, masking and the two datasets."""
