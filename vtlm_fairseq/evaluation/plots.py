"""What commands that draw have in common: a check before the work, and files that are the same from the same input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METADATA = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}  # without a date
PLOT_SUFFIXES = tuple(_METADATA)


def check_plot(path: Path, *, option: str = "--plot") -> None:
    """Check, before anything is computed, that a plot can be drawn.

    Raises:
        VTLMError: matplotlib is missing, the file is of another kind than `PLOT_SUFFIXES`, or cannot be written.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise VTLMError(f"{option} {path}: name a file that ends in {' or '.join(PLOT_SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise VTLMError(f"{option} needs matplotlib: pip install 'vtlm-fairseq[plots]'") from None
    check_writable(path, label=f"{option} {path}", parents=True)


def save_plot(figure: Figure, path: Path, *, option: str = "--plot", dpi: int = 200) -> None:
    """Write a figure."""
    from matplotlib import rc_context

    suffix = path.suffix.lower()
    with (
        whole_file(path, "wb", label=f"{option} {path}", parents=True) as file,
        rc_context({"svg.hashsalt": "vtlm-fairseq"}),
    ):
        figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=_METADATA[suffix])


def plot_layers(
    path: Path, layers: Mapping[str, Sequence[float]], dashed: Mapping[str, float], *, ylabel: str, what: str
) -> None:
    """Draw a line for each system, and dashed what it is compared with.

    Args:
        path: as for `check_plot`.
        layers: figure of each decoder layer, by system.
        dashed: the figure that it is compared with, by system; equal ones are one line.
        ylabel: what the figures are.
        what: the dashed line is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, (system, values) in enumerate(layers.items()):
        axes.plot(range(1, len(values) + 1), values, marker="os^Dv*"[number % 6], label=system)
    shares: dict[float, list[str]] = {}
    for system, value in dashed.items():
        shares.setdefault(round(value, 4), []).append(system)
    for share, names in shares.items():
        owner = "" if len(shares) == 1 else f" ({', '.join(names)})"
        axes.axhline(share, color="0.5", linestyle="--", linewidth=1, label=f"{what}{owner}")
    axes.set(xlabel="decoder layer", ylabel=ylabel, ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize="small")
    save_plot(figure, path)
