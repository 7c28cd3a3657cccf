"""Draw masked nouns of the records in results2/, for RESULTS.md.

python examples/multi30k/results2_plot.py [--split test] [--out examples/multi30k/results2/masked-nouns.png]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))  # python -P leaves the folder of the script out

from results2_systems import SPLITS  # noqa: E402
from results2_tables import LANGUAGES, Records, noun_statistics, share  # noqa: E402

from vtlm_fairseq.evaluation.plots import check_plot, save_plot  # noqa: E402

COLUMNS = {"given": "#1f6fb4", "hidden": "#9aa2ad", "shuffled": "#d2601a"}
"""What a model is shown, and its colour."""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw accuracy on nouns that a region names, of each system and language."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: %(default)s")
    parser.add_argument("--records", type=Path, default=HERE / "results2", metavar="DIR")
    parser.add_argument("--out", type=Path, default=HERE / "results2" / "masked-nouns.png", metavar="FILE")
    args = parser.parse_args(argv)
    check_plot(args.out, option="--out")
    from matplotlib.figure import Figure

    systems = Records(args.records, SPLITS[args.split], list).seeds("masked-noun")
    figure = Figure(figsize=(9, 0.9 + 0.55 * len(systems)), layout="constrained")
    for word, axes in zip(LANGUAGES, figure.subplots(1, len(LANGUAGES), sharey=True), strict=True):
        for row, records in enumerate(systems.values()):
            for bar, (column, colour) in enumerate(COLUMNS.items()):
                sums = noun_statistics(records, word, (1,), column)
                if sums is not None:
                    accuracy = float(share(sums.sum(axis=1)).mean())
                    label = {"hidden": "no regions", "shuffled": "another image's regions"}.get(column, "own regions")
                    axes.barh(row + 0.27 * (bar - 1), accuracy, 0.25, color=colour, label=label)
                    axes.text(accuracy + 0.5, row + 0.27 * (bar - 1), f"{accuracy:.1f}", va="center", fontsize=7)
        axes.set_title({"en": "English", "de": "German"}[word], fontsize=9)
        axes.set_xlabel("nouns that a region names, right, %", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(0, 75)
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    titles = [f"{system.title} ({len(records)})" for system, records in systems.items()]
    first.set_yticks(range(len(titles)), titles)
    first.invert_yaxis()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    kept = dict(zip(labels, handles, strict=True))
    figure.legend(kept.values(), kept.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_plot(figure, args.out, option="--out")


if __name__ == "__main__":
    main()
