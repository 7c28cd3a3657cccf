"""Print the folder of the package: `--user-dir "$(python -m vtlm_fairseq)"`; with --recipes, that of the recipes."""

import argparse
from pathlib import Path

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m vtlm_fairseq", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("--recipes", action="store_true", help="print the folder of the recipes instead")
    folder = Path(__file__).resolve().parent
    print(folder / "recipes" if parser.parse_args().recipes else folder)
