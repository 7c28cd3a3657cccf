"""Captions as text: pipeline, sub-words, caption files, and their way into the folders of fairseq."""
