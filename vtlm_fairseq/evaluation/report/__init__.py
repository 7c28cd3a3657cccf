"""The page that `vtlm-report` writes."""
