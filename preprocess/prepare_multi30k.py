#!/usr/bin/env python
"""`vtlm-prepare multi30k` as a script of the checkout."""

import sys

from vtlm_fairseq.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main(["multi30k", *sys.argv[1:]]))
