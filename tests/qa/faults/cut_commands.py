"""Commands that meet a file that is cut off, and what they must say."""

from pathlib import Path

from harness import USER_DIR, Result, pretraining
from toy import Corpus

TRANSLATION = ("--user-dir", USER_DIR, "--task", "multimodal_translation")
STDIN = "word1 word2\ttest-0-0\n"


def with_checkpoint(corpus: Corpus, path: Path, out: Path) -> dict[str, tuple[str, list]]:
    """Commands that read a checkpoint, by what they are: module or script, and arguments.

    Args:
        corpus: data that fit it.
        path: the checkpoint, which must be named ``checkpoint_last.pt``, with the dictionaries beside it.
        out: folder for what would be made.
    """
    regions = ["--regions", corpus.regions]
    train = [corpus.data, *TRANSLATION, "--arch", "multimodal_transformer_tiny", "--criterion", "cross_entropy"]
    train += ["--optimizer", "adam", "--cpu", "--batch-size", "8", "--max-update", "3", *regions, "--save-dir"]
    decode = [corpus.data, *TRANSLATION, "--path", path, "--cpu", *regions]
    return {
        "resume": ("fairseq_cli.train", [*train, path.parent]),
        "--restore-file": ("fairseq_cli.train", [*train, out / "run", "--restore-file", path]),
        "--finetune-from-model": ("fairseq_cli.train", [*train, out / "run", "--finetune-from-model", path]),
        "--pretrained": ("fairseq_cli.train", [*train, out / "run", "--pretrained", path]),
        "fairseq-generate": ("fairseq_cli.generate", decode),
        "fairseq-interactive": ("fairseq_cli.interactive", [*decode, "--region-order", "none"]),
        "vtlm-translate": ("vtlm_fairseq.cli.translate", ["--path", path, "--cpu", "--preprocessed", *regions]),
        "vtlm-convert average": ("vtlm_fairseq.cli.convert", ["average", path, "--out", out / "average.pt"]),
        "vtlm-convert latest": ("vtlm_fairseq.cli.convert", ["latest", path.parent]),
        "vtlm-convert checkpoint": ("vtlm_fairseq.cli.convert", ["checkpoint", path, "--out", out / "new.pt"]),
    }


def with_store(corpus: Corpus, store: Path, checkpoint: Path, out: Path) -> dict[str, tuple[str, list]]:
    """Commands that read a region store.

    Args:
        corpus: data whose images the store has.
        store: the store.
        checkpoint: a whole translation model with regions.
        out: folder for what would be made.
    """
    decode = ["--path", checkpoint, "--cpu", "--regions", store]
    merge = ["merge", store, "--out", store.parent / "merged.h5"]
    return {
        "pre-training": ("fairseq_cli.train", pretraining(corpus.data, out / "run", regions=store)),
        "fairseq-generate": ("fairseq_cli.generate", [corpus.data, *TRANSLATION, *decode]),
        "vtlm-translate": ("vtlm_fairseq.cli.translate", ["--preprocessed", *decode]),
        "vtlm-regions info": ("vtlm_fairseq.cli.regions", ["info", store]),
        "vtlm-regions validate": ("vtlm_fairseq.cli.regions", ["validate", store]),
        "vtlm-regions merge": ("vtlm_fairseq.cli.regions", merge),
        "vtlm-regions merge --copy": ("vtlm_fairseq.cli.regions", [*merge, "--copy"]),
    }


def unclear(name: str, result: Result, path: Path) -> str:
    """What is wrong with the answer of a command to a file that is cut off; empty if nothing is."""
    if result.status not in (1, 2):
        return f"exit status {result.status}"
    if "Traceback" in result.output:
        return f"a stack, which ends in {result.last_line!r}"
    line = result.last_line
    if name == "vtlm-regions validate":
        return "" if line == f"{path}: 1 faults" and str(path) in result.output.splitlines()[-2] else line
    where = str(path.parent) if name == "vtlm-convert latest" else str(path)
    return "" if line.startswith("error: ") and where in line else f"last line {line!r}"
