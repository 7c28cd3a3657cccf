"""Fuzz `text.json` and the BPE model beside it."""

import json
import random
from copy import deepcopy
from pathlib import Path

from captions import LINES
from fuzzing import Case
from mutations import NUMBERS, ODD_CHARACTERS, damage, encoded

from vtlm_fairseq.text.pipeline import STEPS, TextPipeline, learn_sentencepiece, load_bpe
from vtlm_fairseq.text.subwords import BPE_KINDS

VALUES = (None, True, False, 0, 1, -1, 1.5, 1e400, "", "x", "en", "../x", "/etc/passwd", "a/b", ".", "..", [], {}, [[]],
          "dict.en.txt", "text.json", "bpe.model", "sentencepiece", "none", list(STEPS), list(STEPS[::-1]),
          10**400, "9" * 5000, "x\0",
          ["tokenise"], ["escape"], ["lowercase", "lowercase"], [1], [None], [[]], {"file": "x"}, *NUMBERS,
          *ODD_CHARACTERS)  # fmt: skip


def setup(folder: Path) -> Case:
    """A prepared folder, whose description or BPE model is damaged."""
    (folder / "bpe.model").write_bytes(learn_sentencepiece(LINES * 3, vocab_size=90))
    codes = b"#version: 0.2\na n</w>\ni n</w>\nd e\nu n\nde r</w>\n"
    (folder / "bpe.codes").write_bytes(codes)
    for lang in ("en", "de"):
        (folder / f"dict.{lang}.txt").write_text("x 1\n")
    bases = []
    for bpe in BPE_KINDS:
        TextPipeline("en", "de", bpe=bpe).save(folder)
        bases.append(json.loads((folder / "text.json").read_text(encoding="utf-8")))
    model = (folder / "bpe.model").read_bytes()
    path, other = folder / "text.json", folder / "other"

    def case(rng: random.Random) -> None:
        if rng.random() < 0.3:
            other.write_bytes(damage(rng, rng.choice((model, codes)), most=8))
            kind, segment = load_bpe(other)
            pieces = segment("a man in the unbank xyz")
            assert kind in ("sentencepiece", "subword_nmt") and isinstance(pieces, str), "no pieces"
            return
        content = deepcopy(rng.choice(bases))
        for _ in range(rng.randint(0, 3)):
            content = _change(rng, content)
        text = json.dumps(content, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)))
        if rng.random() < 0.02:
            text = rng.choice(("[" * 100_000, '{"a":' * 100_000, "1" * 5000, '"\\ud800"', "NaN", ""))
        path.write_bytes(encoded(rng, text) if rng.random() < 0.3 else text.encode("utf-8", "surrogatepass"))
        pipeline = TextPipeline.load(folder)
        files = pipeline.files()
        assert all(Path(name).name == name and (folder / name).is_file() for name in files), "not a whole folder"
        assert set(pipeline.checksums) >= set(files) - {"text.json"}, "a file without a checksum"
        words = pipeline.encode("A man's Bank <mask>", pipeline.source_lang)
        assert words.endswith("<mask>") and "\n" not in words, "no words"
        pipeline.decode(words, pipeline.target_lang, detokenize=True)

    return case


def _change(rng: random.Random, content):
    """One change somewhere in a JSON value."""
    if rng.random() < 0.03 or not isinstance(content, dict | list) or not content:
        return deepcopy(rng.choice(VALUES))
    key = rng.choice(list(content)) if isinstance(content, dict) else rng.randrange(len(content))
    kind = rng.random()
    if kind < 0.25:
        del content[key]
    elif kind < 0.4 and isinstance(content, dict):
        content[str(rng.choice(VALUES))] = content[key] if rng.random() < 0.5 else deepcopy(rng.choice(VALUES))
    elif kind < 0.7:
        content[key] = deepcopy(rng.choice(VALUES))
    else:
        content[key] = _change(rng, content[key])
    return content
