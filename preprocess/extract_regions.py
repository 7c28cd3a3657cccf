#!/usr/bin/env python
"""`vtlm-extract` as a script of the checkout."""

from vtlm_fairseq.cli.extract import main

if __name__ == "__main__":
    raise SystemExit(main())
