"""METEOR through its jar: its modules, its label. Needs Java and the jar, which PyPI's pycocoevalcap holds."""

import gzip
import shutil
from pathlib import Path

import pytest
from meteor_jar import find_jar

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.meteor import meteor_score


@pytest.fixture(scope="module")
def bare_jar(tmp_path_factory) -> Path:
    """The jar without paraphrase tables beside it."""
    return Path(shutil.copy(find_jar(), tmp_path_factory.mktemp("bare") / "meteor-1.5.jar"))


PAIRS = {"b automobile": "b car", "b in the middle of": "b amid", "b zebra": "b spoon"}
"""Matched by WordNet's synonyms, by a paraphrase table alone, by nothing. One word alone is a case of its own."""


def with_table(jar: Path, folder: Path, lang: str, *phrases: str) -> str:
    """A copy of the jar with a table of one paraphrase: probability and both phrases."""
    (folder / "data").mkdir()
    with gzip.open(folder / f"data/paraphrase-{lang}.gz", "wt", encoding="utf-8") as table:
        table.write("".join(f"{line}\n" for line in (0.5, *phrases)))
    return shutil.copy(jar, folder / "meteor-1.5.jar")


@pytest.mark.slow
def test_english_with_its_table(bare_jar, tmp_path):
    """Synonyms come with the jar, paraphrases with the table; the label names both."""
    jar = with_table(bare_jar, tmp_path, "en", "in the middle of", "amid")
    result = meteor_score(list(PAIRS), list(PAIRS.values()), jar=jar, lang="en")
    assert result.label == "METEOR 1.5 exact+stem+synonym+paraphrase"
    assert result.value == pytest.approx(0.429017, abs=1e-6)
    assert result.signature == "meteor-1.5-wo-en-lc_only-0.85_0.2_0.6_0.75-ex_st_sy_pa-1.0_0.6_0.8_0.6"


@pytest.mark.slow
def test_english_without_its_table(bare_jar):
    """The paraphrase is not found, and the label says so."""
    result = meteor_score(list(PAIRS), list(PAIRS.values()), jar=str(bare_jar), lang="en")
    assert result.label == "METEOR 1.5 exact+stem+synonym"
    assert result.value == pytest.approx(0.295145, abs=1e-6)


@pytest.mark.slow
def test_german_without_its_table(bare_jar):
    """Exact words and stems, by METEOR's German parameters: alpha 0.95, beta 1, gamma 0.55, delta 0.55, weight 0.8.

    `kleine kinder spielen` and `kleines kind spielt`: two equal stems of three words in one chunk, so
    P = R = 2/3 * 0.8 and the penalty is 0.55 (1/2)^1.
    """
    same = ["ein mann läuft über die straße .", "zwei hunde", "Grüße &apos; ."]
    result = meteor_score(same, same, jar=str(bare_jar), lang="de")
    assert result.value == 1.0
    assert result.label == "METEOR 1.5 exact+stem"
    result = meteor_score(["kleine kinder spielen"], ["kleines kind spielt"], jar=str(bare_jar), lang="de")
    assert result.value == pytest.approx(2 / 3 * 0.8 * (1 - 0.55 / 2))
    assert result.signature == "meteor-1.5-wo-de-lc_only-0.95_1.0_0.55_0.55-ex_st-1.0_0.8"


@pytest.mark.slow
def test_german_with_its_table(bare_jar, tmp_path, monkeypatch):
    jar = with_table(bare_jar, tmp_path, "de", "auto", "wagen")
    result = meteor_score(["das auto"], ["das wagen"], jar=jar, lang="de")
    assert result.label == "METEOR 1.5 exact+stem+paraphrase"
    assert result.value > meteor_score(["das auto"], ["das wagen"], jar=str(bare_jar), lang="de").value
    monkeypatch.setenv("LC_ALL", "C")  # on which case and umlauts do not depend
    assert meteor_score(["ÄPFEL"], ["äpfel"], jar=str(bare_jar), lang="de").value == 1.0


def test_what_is_missing_is_named(bare_jar, tmp_path, monkeypatch):
    with pytest.raises(VTLMError, match="no such file .--meteor-jar.; pip download --no-deps pycocoevalcap"):
        meteor_score(["a"], ["a"], jar=str(tmp_path / "m.jar"), lang="de")
    (tmp_path / "m.jar").write_bytes(b"no jar")
    with pytest.raises(VTLMError, match="METEOR failed: .*; is .*m.jar meteor-1.5.jar"):
        meteor_score(["a"], ["a"], jar=str(tmp_path / "m.jar"), lang="de")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VTLMError, match="needs Java"):
        meteor_score(["a"], ["a"], jar=str(bare_jar), lang="de")
