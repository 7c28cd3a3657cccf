#!/usr/bin/env python
"""`vtlm-prepare contrastive` as a script of the checkout."""

import sys

from vtlm_fairseq.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["contrastive", *sys.argv[1:]]))
