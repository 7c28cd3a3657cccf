"""METEOR 1.5 through its jar, labelled with the modules that ran."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vtlm_fairseq.errors import VTLMError

HOW_TO_GET = (
    "pip download --no-deps pycocoevalcap==1.2 && unzip pycocoevalcap-1.2-*.whl 'pycocoevalcap/meteor/*' gives "
    "pycocoevalcap/meteor/meteor-1.5.jar and, in data/ beside it, the English paraphrase table"
)
_LANGUAGES = {"cs": "cz"}
"""METEOR's names of languages where they are not ISO's."""


@dataclass(frozen=True)
class MeteorScore:
    """What METEOR computed.

    Attributes:
        value: of the corpus, in 0..1.
        sentences: of each sentence, in 0..1.
        modules: the matchers that ran, of ``exact stem synonym paraphrase``.
        signature: METEOR's own id of its settings: version, language, parameters, modules and their weights.
    """

    value: float
    sentences: list[float]
    modules: list[str]
    signature: str

    @property
    def label(self) -> str:
        """``METEOR 1.5 exact+stem`` and the like."""
        return f"METEOR 1.5 {'+'.join(self.modules)}"


def meteor_score(hypotheses: Sequence[str], references: Sequence[str], *, jar: str, lang: str) -> MeteorScore:
    """Score tokenised text with METEOR's settings for the language; case is ignored.

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
        raise VTLMError(f"{jar}: no such file (--meteor-jar); {HOW_TO_GET}")
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
    sentences = [float(score) for score in re.findall(r"^Segment \d+ score:\s+(\S+)", output, re.MULTILINE)]
    signature = re.search(r"^Eval ID:\s+(\S+)", output, re.MULTILINE)
    if not final or not signature or len(sentences) != len(hypotheses):
        lines = [line for line in output.splitlines() if re.search("error|exception", line, re.IGNORECASE)]
        raise VTLMError(f"METEOR failed: {(lines or ['no score in its output'])[0]}; is {jar} meteor-1.5.jar?")
    return MeteorScore(float(final[1]), sentences, _modules(output), signature[1])


def _run(command: list[str]) -> str:
    """Standard output and error of METEOR, whose exit status is 0 even when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    return done.stdout


def _modules(output: str) -> list[str]:
    found = re.search(r"^Modules:(.*)$", output, re.MULTILINE)
    return found[1].split() if found else []
