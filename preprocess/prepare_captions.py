#!/usr/bin/env python
"""`vtlm-prepare captions` as a script of the checkout."""

import sys

from vtlm_fairseq.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["captions", *sys.argv[1:]]))
