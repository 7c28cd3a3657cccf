"""The commands of docs/languages.md, one after the other."""

import random
import re
import shlex

import pytest

from harness import ROOT, TRAINING, USER_DIR, shell, write_lines
from stores import make_store

PAGE = (ROOT / "docs" / "languages.md").read_text(encoding="utf-8")
MODULES = {"vtlm-prepare": "vtlm_fairseq.cli.prepare"} | {
    f"fairseq-{name}": f"fairseq_cli.{name}" for name in ("train", "preprocess", "generate")
}


@pytest.mark.slow
def test_the_page(run, tmp_path):
    """From raw captions to sentences of a pair that no translation model was trained on."""
    rng = random.Random(3)
    letters = {"en": "abcde", "de": "fghijä", "fr": "klmno", "cs": "pqrsř"}
    for name, images in (("de", 60), ("fr", 60), ("cs", 50), ("coco", 40)):
        lines = [[rng.randrange(90) for _ in range(rng.randint(2, 8))] for _ in range(images)]
        for lang in ("fr",) if name == "coco" else ("en", name):
            words = ["".join(letters[lang][w // 5**k % 5] for k in range(3)) for w in range(90)]
            write_lines(tmp_path / f"{name}.{lang}", (" ".join(words[w] for w in line) for line in lines))
        write_lines(tmp_path / f"{name}.images", (f"{'c' if name == 'coco' else 'm'}{k}" for k in range(images)))
    for store, letter in (("m30k", "m"), ("coco", "c")):
        make_store(tmp_path / f"{store}.h5", [f"{letter}{k}" for k in range(60)], regions=5)
    train, *blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    made = [run_block(run, tmp_path, block) for block in [*blocks[:2], train, *blocks[2:]]]
    logged = made[2][0].validations()[-1]
    assert {"en-de:mrc_loss", "en-fr:loss", "en-cs:mlm_loss"} <= set(logged) and logged["en-cs:mrc_accuracy"] == 0
    assert "fr has no such split" in made[2][0].output
    assert not re.search(r"[1-9]\d* unknown", made[0][1].output)
    assert len(made[3][1].hypotheses()) == 20


def run_block(run, folder, block):
    """Runs the commands of a block; results of those that are fairseq's or ours."""
    for option, value in (
        ("10000", "120"),
        ("--arch vtlm ", "--arch vtlm_tiny "),
        ("_transformer ", "_transformer_tiny "),
    ):
        block = block.replace(option, value)
    block = block.replace("$TRAINING", shlex.join(TRAINING)).replace(
        '"$(python -m vtlm_fairseq)"', shlex.quote(USER_DIR)
    )
    results, others = [], []
    for line in block.replace("\\\n", " ").splitlines():
        command, *argv = shlex.split(line) if not others and line.startswith(tuple(MODULES)) else [None]
        if command is None:
            others.append(line)
            if "<" in line or "python" not in line:
                assert shell("bash", "-ec", "\n".join(others), cwd=folder).status == 0
                others = []
        else:
            argv += ["--cpu"] if command == "fairseq-generate" else []
            results.append(run(MODULES[command], *argv, cwd=folder))
    return results
