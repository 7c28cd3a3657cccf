"""Fuzz the output of fairseq-generate as vtlm-score and the probes read it."""

import random
from pathlib import Path

from fuzzing import Case
from mutations import NUMBERS, encoded, sentence

from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses


def setup(folder: Path) -> Case:
    """Logs of decoding with lines missing, doubled and foreign."""
    path = folder / "out.txt"

    def case(rng: random.Random) -> None:
        lines = []
        ids = list(range(rng.randint(0, 6)))
        rng.shuffle(ids)
        for i in ids:
            if rng.random() < 0.1:
                i = rng.choice((*NUMBERS, i + 1, "\u0663", "x", "", "9" * 5000, "1_0"))
            odd = (-0.5, -0.5, "nan", "inf", "", "x", "1e999", "-1_0", "\u0663")
            score = rng.choice(odd) if rng.random() < 0.1 else -1.25
            lines += [f"S-{i}\t{sentence(rng)}", f"T-{i}\t{sentence(rng)}", f"H-{i}\t{score}\t{sentence(rng)}",
                      f"D-{i}\t{score}\t{sentence(rng)}", f"P-{i}\t-0.1 -0.2"]  # fmt: skip
        for _ in range(rng.choice((0, 0, 1, 3))):
            if lines:
                at, kind = rng.randrange(len(lines)), rng.randrange(3)
                if kind == 0:
                    lines.pop(at)
                else:
                    lines.insert(at, lines[at] if kind == 1 else sentence(rng))
        path.write_bytes(encoded(rng, "\n".join(lines) + rng.choice(("", "\n"))))
        allowed = rng.random() < 0.3
        found = read_hypotheses(path, allow_missing=allowed)
        assert len(found.texts) == len(found.ids), "texts and ids differ in number"
        assert found.ids == sorted(set(found.ids)), "ids are not in order"
        assert allowed or found.ids == list(range(len(found.ids))), "a gap"
        assert not any("\n" in text for text in found.texts), "a line end in a text"
        if found.scores is not None:
            assert len(found.scores) == len(found.ids) and all(s == s and s < 1e300 for s in found.scores), "no number"
        if found.references is not None:
            assert len(found.references) == len(found.ids), "references and ids differ in number"

    return case
