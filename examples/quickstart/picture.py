"""Draw data, model and result of a quickstart's folder as one picture, that of README.md."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.plots import check_plot, save_plot
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.terminal import command_line, say

SHOWN, OTHER, PLAIN, INK = "#1f6fb4", "#d1651f", "#9aa3ad", "#222831"
BARS = (("mmt", "MMT, its scene", SHOWN), ("mmt_swapped", "MMT, the other scene", OTHER),
        ("mmt_shuffled", "MMT, any scene", PLAIN), ("nmt", "NMT, no scene", PLAIN))  # fmt: skip


def read(folder: Path) -> tuple[list[dict], dict[str, float]]:
    """What is known of each test line, and the share of ambiguous nouns that each system has right.

    Raises:
        VTLMError: the folder holds no finished quickstart.
    """
    try:
        lines = (folder / "data/test.jsonl").read_text(encoding="utf-8").splitlines()
        systems = json.loads((folder / "results.json").read_text(encoding="utf-8"))["systems"]
    except (OSError, ValueError, KeyError) as error:
        raise VTLMError(f"{folder}: no finished quickstart ({error}); run examples/quickstart/run.sh first") from None
    return [json.loads(line) for line in lines], {name: one["ambiguous"]["accuracy"] for name, one in systems.items()}


def twins(records: list[dict], noun: str) -> tuple[dict, dict]:
    """The two lines of the shortest sentence about an ambiguous noun, or about any."""
    ambiguous = [record for record in records if record["ambiguous"]]
    found = [record for record in ambiguous if record["ambiguous"] == noun] or ambiguous
    first = min(found, key=lambda record: (len(record["english"]), record["line"]))
    return first, records[first["partner"]]


def draw_scene(axes: Axes, store: RegionStore, record: dict, colour: str) -> None:
    """The boxes of a scene with their classes; the one in which the twins differ is filled."""
    (row,) = store.rows([record["image"]])
    for number, (box, label) in enumerate(zip(store[int(row)].boxes.tolist(), record["scene"], strict=True)):
        x, y, right, bottom = box
        differs = number == record["differing_region"]
        style = {"facecolor": (colour, 0.25), "edgecolor": colour, "linewidth": 2} if differs else {
            "fill": False, "edgecolor": PLAIN}  # fmt: skip
        axes.add_patch(Rectangle((x, y), right - x, bottom - y, **style))
        axes.text(x + 0.01, y + 0.015, label, fontsize=9 if differs else 7, va="top", zorder=3,
                  color=colour if differs else PLAIN, weight="bold" if differs else "normal")  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(1.02, -0.02), xticks=[], yticks=[])
    axes.set_title(f"{record['english']}\n{record['german']}", fontsize=9, loc="left", color=colour)


def draw_model(axes: Axes) -> None:
    """Pre-training above, translation below."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.axis("off")

    def box(x: float, y: float, width: float, text: str, colour: str = INK) -> None:
        axes.add_patch(Rectangle((x, y), width, 0.12, fill=False, edgecolor=colour))
        axes.text(x + width / 2, y + 0.06, text, ha="center", va="center", fontsize=8, color=colour)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK})

    axes.text(0, 0.97, "1. Pre-training (VTLM)", fontsize=10, weight="bold")
    box(0, 0.56, 0.3, "English <mask>")
    box(0.35, 0.56, 0.3, "German <mask>")
    box(0.7, 0.56, 0.3, "regions", SHOWN)
    box(0.1, 0.78, 0.8, "encoder: masked words, classes of regions")
    for x in (0.15, 0.5, 0.85):
        arrow((x, 0.68), (x, 0.78))
    axes.text(0, 0.44, "2. Translation (MMT)", fontsize=10, weight="bold")
    box(0, 0.03, 0.3, "English")
    box(0.35, 0.03, 0.3, "regions", SHOWN)
    box(0, 0.25, 0.65, "the same encoder")
    box(0.75, 0.25, 0.25, "decoder")
    for x in (0.15, 0.5):
        arrow((x, 0.15), (x, 0.25))
    arrow((0.65, 0.31), (0.75, 0.31))
    arrow((0.875, 0.25), (0.875, 0.15))
    axes.text(0.875, 0.09, "German", ha="center", va="center", fontsize=9)


def draw_result(axes: Axes, shares: dict[str, float]) -> None:
    """Bars, in per cent."""
    names = [name for _, name, _ in BARS][::-1]
    values = [100 * shares[system] for system, _, _ in BARS][::-1]
    drawn = axes.barh(names, values, color=[colour for _, _, colour in BARS][::-1])
    axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=9)
    axes.set(xlim=(0, 112), xlabel="ambiguous nouns translated right, % (quickstart)")
    axes.spines[["top", "right"]].set_visible(False)


def draw(folder: Path, noun: str = "seal") -> Figure:
    """The picture: data, model, result.

    Raises:
        VTLMError: the folder holds no finished quickstart.
    """
    records, shares = read(folder)
    first, second = twins(records, noun)
    store = RegionStore([str(folder / "data/regions/test.h5")])
    figure = plt.figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.add_gridspec(1, 3, width_ratios=(1.15, 1, 1))
    scenes = left.subgridspec(2, 1)
    draw_scene(figure.add_subplot(scenes[0]), store, first, SHOWN)
    draw_scene(figure.add_subplot(scenes[1]), store, second, OTHER)
    draw_model(figure.add_subplot(middle))
    draw_result(figure.add_subplot(right), shares)
    return figure


@command_line()
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("quickstart-out"), help="of run.sh (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="picture to write: .png, .svg or .pdf")
    args = parser.parse_args()
    check_plot(args.out, option="--out")
    save_plot(draw(args.folder), args.out, option="--out", dpi=110)
    say(f"{args.out}: written")


if __name__ == "__main__":
    main()
