"""METEOR 1.5 through its jar, labelled with the modules that ran."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring import METEOR_JAR
from vtlm_fairseq.evaluation.scoring.scores import Figure

_LANGUAGES = {"cs": "cz"}
"""METEOR's names of languages where they are not ISO's."""


def meteor_score(hypotheses: Sequence[str], references: Sequence[str], *, jar: str, lang: str) -> Figure:
    """Score tokenised text with METEOR's settings for the language, in 0..1; case is ignored.

    The label names the matchers that ran, ``METEOR 1.5 exact+stem`` and the like; the signature is METEOR's own id of
    its settings: version, language, parameters, modules and their weights.

    The paraphrase tables are not in the jar: METEOR looks for ``data/paraphrase-LANG.gz`` beside it. Without the table
    of the language its other modules run.

    Args:
        hypotheses: tokenised, without sub-words.
        references: the same.
        jar: path of ``meteor-1.5.jar``.
        lang: ISO code; METEOR knows ``en de fr es cs ru`` best.

    Raises:
        VTLMError: no Java, no jar, or METEOR failed.
    """
    java = shutil.which("java")
    if java is None:
        raise VTLMError("METEOR needs Java: no `java` on PATH; install a Java runtime or leave out --meteor-jar")
    if not Path(jar).is_file():
        raise VTLMError(f"{jar}: no such file (--meteor-jar); {METEOR_JAR}")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, texts in (("hypotheses", hypotheses), ("references", references)):
            paths.append(Path(folder) / name)
            paths[-1].write_text("".join(f"{text}\n" for text in texts), encoding="utf-8", newline="\n")
        command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(Path(jar).resolve()), *map(str, paths)]
        command += ["-l", _LANGUAGES.get(lang, lang), "-lower"]
        output = _run(command)
        if "paraphrase" in _modules(output) and re.search(r"file not found .*paraphrase-\w+\.gz", output):
            output = _run([*command, "-m", " ".join(m for m in _modules(output) if m != "paraphrase")])
    final = re.search(r"^Final score:\s+(\S+)", output, re.MULTILINE)
    sentences = re.findall(r"^Segment \d+ score:", output, re.MULTILINE)
    signature = re.search(r"^Eval ID:\s+(\S+)", output, re.MULTILINE)
    if not final or not signature or len(sentences) != len(hypotheses):
        lines = [line for line in output.splitlines() if re.search("error|exception", line, re.IGNORECASE)]
        raise VTLMError(f"METEOR failed: {(lines or ['no score in its output'])[0]}; is {jar} meteor-1.5.jar?")
    return Figure(f"METEOR 1.5 {'+'.join(_modules(output))}", float(final[1]), signature[1])


def _run(command: list[str]) -> str:
    """Standard output and error of METEOR, whose exit status is 0 even when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    return done.stdout


def _modules(output: str) -> list[str]:
    found = re.search(r"^Modules:(.*)$", output, re.MULTILINE)
    return found[1].split() if found else []
