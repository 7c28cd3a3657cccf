"""COMET with a local checkpoint, through the optional package unbabel-comet."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.scores import Figure


def comet_score(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], *, model: str, batch_size: int = 16
) -> Figure:
    """The system score of a COMET model; on a GPU if there is one.

    Args:
        sources: running text, cased: what COMET's encoder was trained on.
        hypotheses: the same.
        references: the same.
        model: path of a checkpoint (``.../checkpoints/model.ckpt``). Nothing is downloaded.
        batch_size: sentences at once.

    Raises:
        VTLMError: no such file, or the package is not installed.
    """
    if not Path(model).is_file():
        raise VTLMError(f"{model}: no such file; --comet takes a local checkpoint, .../checkpoints/model.ckpt")
    try:
        from comet import load_from_checkpoint
    except ImportError as error:
        raise VTLMError(
            f"--comet needs a package that is not there ({error}): pip install 'vtlm-fairseq[comet]'"
        ) from None
    data = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True)
    ]
    import torch

    gpus = int(torch.cuda.is_available())
    prediction = load_from_checkpoint(model).predict(data, batch_size=batch_size, gpus=gpus, progress_bar=False)
    return Figure("COMET", float(prediction.system_score), f"model:{model}|version:{_version()}")


def _version() -> str:
    try:
        return importlib.metadata.version("unbabel-comet")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
