"""How much of a pre-training's step is of words and how much of regions: results2/valid/gradients/RUN.json.

    results2_gradients.py --runs runs --data data-bin --regions regions --noise-regions regions-noise vtlm.1 noise.1

Gradients of the two losses in the encoder's layers, which both share, at the best checkpoint: their lengths and the
cosine between them, means over the first batches of an epoch. Nothing is trained.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))  # python -P leaves the folder of the script out

BATCHES, BATCH = 6, 112


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("runs", "data", "regions", "noise-regions"):
        parser.add_argument(f"--{name}", type=Path, required=name != "noise-regions", metavar="DIR")
    parser.add_argument("--records", type=Path, default=HERE / "results2", metavar="DIR")
    parser.add_argument("names", nargs="+", metavar="RUN", help="pre-trainings with regions")
    args = parser.parse_args(argv)
    from results2_systems import BEST, find_runs
    from stages import write_atomically

    from vtlm_fairseq.errors import VTLMError
    from vtlm_fairseq.terminal import command_line

    with command_line():
        for run in find_runs(args.runs, args.names):
            if run.system.translates or not run.system.regions:
                raise VTLMError(f"{run.name}: no pre-training with regions")
            store = args.noise_regions if run.system.regions == "noise" else args.regions
            found = gradients(args.runs / run.name / BEST, args.data, store)
            record = {"run": run.name, "batches": BATCHES, **{name: round(value, 4) for name, value in found.items()}}
            write_atomically(args.records / "valid" / "gradients" / f"{run.name}.json", json.dumps(record) + "\n")
            print(record)


def gradients(path: Path, data: Path, store: Path) -> dict[str, float]:
    """Lengths of the gradients of words and regions, and their cosine."""
    import torch
    from fairseq import checkpoint_utils

    import vtlm_fairseq

    vtlm_fairseq.register()
    overrides = {"data": str(data), "regions": str(store)}
    (model,), config, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    task.load_dataset("train")
    criterion = task.build_criterion(config.criterion)
    batches = task.get_batch_iterator(task.dataset("train"), max_sentences=BATCH, seed=1, epoch=1)
    model.train()
    found = []
    for _, batch in zip(range(BATCHES), batches.next_epoch_itr(shuffle=True), strict=False):
        words, both = (_gradient(model, criterion, batch, weight) for weight in (0.0, 1.0))
        regions = both - words
        lengths = words.norm(), regions.norm()
        found.append([*lengths, words @ regions / (lengths[0] * lengths[1])])
    means = torch.tensor(found).mean(dim=0).tolist()
    return dict(zip(("words", "regions", "cosine"), means, strict=True))


def _gradient(model, criterion, batch, mrc_weight: float):
    """Gradient of the encoder's layers as one vector."""
    import torch

    model.zero_grad()
    criterion.mrc_weight = mrc_weight
    criterion(model, batch)[0].backward()
    layers = [parameter for name, parameter in model.named_parameters() if ".layers." in name]
    return torch.cat([parameter.grad.flatten().clone() for parameter in layers])


if __name__ == "__main__":
    main()
