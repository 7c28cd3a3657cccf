"""Fuzz `dict.*.txt`."""

import random
from pathlib import Path

from fuzzing import Case
from mutations import NUMBERS, encoded, word

from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.tasks.captions import CaptionsTask
from vtlm_fairseq.text.subwords import MASK


def setup(folder: Path) -> Case:
    """Files of lines that are nearly those of a dictionary."""
    path = folder / "dict.en.txt"

    def case(rng: random.Random) -> None:
        lines = [f"w{i} {rng.randrange(100)}" for i in range(rng.randint(0, 8))]
        for _ in range(rng.choice((0, 1, 1, 3))):
            count = rng.choice((*NUMBERS, -1, "x", "", "1.5", "0x1", "1_0", "\u0663", "9" * 5000))
            kinds = (f"{word(rng)} {count}", word(rng), f"{word(rng)} {count} #fairseq:overwrite", f"{MASK} 0")
            lines.insert(rng.randint(0, len(lines)), rng.choice(kinds))
        path.write_bytes(encoded(rng, "\n".join(lines) + rng.choice(("", "\n"))))
        loaded = CaptionsTask.load_dictionary(str(path))
        assert MASK in loaded.indices
        if not any("#fairseq:overwrite" in line for line in lines):  # which lets a symbol be there twice
            assert len(set(loaded.symbols)) == len(loaded.symbols), "symbols are there twice"
            assert all(loaded.index(symbol) == i for i, symbol in enumerate(loaded.symbols)), "an index is another's"
        assert all(isinstance(count, int) for count in loaded.count) and len(word_mask(loaded)) == len(loaded)
        assert loaded.encode_line("a <mask> w0", add_if_not_exist=False).max() < len(loaded)

    return case
