"""Probes of what a model does with the image (section 3 of the paper): the sub-commands of `vtlm-probe`."""
