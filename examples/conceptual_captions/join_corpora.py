#!/usr/bin/env python
"""Join two folders of binarised data for the row NMT+CC: the first corpus as `train`, the second as `train1`.

    python examples/conceptual_captions/join_corpora.py cc-bin m30k-bin --out joined-bin

Validation and test sets, `text.json` and the BPE model are those of the second folder. fairseq trains on `train` and
`train1` together, shuffled; a list `cc-bin:m30k-bin` would alternate them by epochs and validate on the first.
"""

import argparse
import shutil
from pathlib import Path

from fairseq.data import Dictionary

from vtlm_fairseq.data.dictionary import first_difference
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder
from vtlm_fairseq.terminal import command_line


def join(first: Path, second: Path, out: Path) -> None:
    """Make the joined folder ``out``.

    Raises:
        VTLMError: a folder without training data or dictionaries, or dictionaries that differ.
    """
    dictionaries = sorted(path.name for path in second.glob("dict.*.txt"))
    for folder in (first, second):
        if not list(folder.glob("train.*.idx")) or not dictionaries:
            raise VTLMError(f"{folder}: no binarised training data with dictionaries; see fairseq-preprocess")
    for name in dictionaries:
        if not (first / name).is_file():
            raise VTLMError(f"{first / name}: no such file; both folders must hold the same languages")
        symbols = [Dictionary.load(str(folder / name)).symbols for folder in (first, second)]
        if difference := first_difference(*symbols):
            raise VTLMError(
                f"{second / name} differs from {first / name}: {difference}; prepare the second corpus with the "
                "first one's vocabulary (--bpe-model and --dict, or --srcdict)"
            )
    with new_folder(out) as folder:
        for path in sorted(second.iterdir()):
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            else:
                name = path.name
                shutil.copyfile(path, folder / (f"train1.{name[6:]}" if name.startswith("train.") else name))
        for path in sorted(first.glob("train.*")):
            shutil.copyfile(path, folder / path.name)


@command_line()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", type=Path, help="folder whose train stays train (Conceptual Captions)")
    parser.add_argument("second", type=Path, help="folder whose train becomes train1; valid and test sets are its own")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    args = parser.parse_args(argv)
    join(args.first, args.second, args.out)


if __name__ == "__main__":
    main()
