"""Print the folder of the package: `--user-dir "$(python -m vtlm_fairseq)"`; with options, something else."""

import argparse
from pathlib import Path

from vtlm_fairseq.version import __version__

HYDRA = {"--optimizer": "optimizer._name", "--num-workers": "dataset.num_workers", "--autocast": "+task.autocast"}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m vtlm_fairseq", description=__doc__.partition(":")[0] + ".")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--recipes", action="store_true", help="print the folder of the recipes instead")
    other.add_argument(
        "--fast",
        nargs="?",
        const="train",
        choices=["train", "hydra"],
        help="print options that make training use this machine's GPU, for fairseq-train or fairseq-hydra-train; "
        "nothing where there is none",
    )
    parser.add_argument("--version", action="version", version=f"vtlm-fairseq {__version__}")
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    if args.fast is None:
        print(folder / "recipes" if args.recipes else folder)
    else:
        from vtlm_fairseq.precision import fast_options

        options = fast_options().items()
        print(*(f"{HYDRA[name]}={value}" if args.fast == "hydra" else f"{name} {value}" for name, value in options))
