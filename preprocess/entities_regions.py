#!/usr/bin/env python
"""`vtlm-oracle` as a script of the checkout."""

from vtlm_fairseq.cli.oracle import main

if __name__ == "__main__":
    raise SystemExit(main())
