"""Print the folder of the package: `--user-dir "$(python -m vtlm_fairseq)"`."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).resolve().parent)
