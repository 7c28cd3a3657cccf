"""Regions from images: files, detectors, and the parts of an extraction that can be resumed."""
