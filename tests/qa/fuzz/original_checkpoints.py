"""Fuzz checkpoints of the paper's code as `vtlm-convert checkpoint` reads them."""

import random
from pathlib import Path

import torch
from fuzzing import Case
from hostile import hostile_pickle, never_executed
from mutations import damage

from checkpoints import _save, pickle_of, with_pickle
from originals import random_original
from vtlm_fairseq.interop.conversion import convert


def setup(folder: Path) -> Case:
    """Small random checkpoints of a pre-trained and a translation model."""
    sizes = {"dim": 8, "ffn": 8, "layers": 1, "heads": 2, "words": 4, "positions": 4, "region_dim": 3, "classes": 3}
    contents = [random_original(**sizes), random_original(translation=True, **sizes)]
    bases = [_save(content) for content in contents]
    mark, path = folder / "executed", folder / "case.pth"

    def case(rng: random.Random) -> None:
        kind, number = rng.random(), rng.randrange(2)
        data = bases[number]
        if kind < 0.15:
            data = data[: rng.randrange(len(data))]
        elif kind < 0.3:
            data = damage(rng, data, most=3)
        elif kind < 0.6:
            data = with_pickle(data, damage(rng, pickle_of(data), most=3))
        elif kind < 0.7:
            data = with_pickle(data, hostile_pickle(rng, mark))
        else:
            data = _save(_changed(rng, contents[number]))
        path.write_bytes(data)
        with never_executed(mark):
            converted = convert(str(path), folder=str(folder))
            model = converted.state["model"]
            assert all(isinstance(t, torch.Tensor) and torch.isfinite(t).all() for t in model.values()), "no parameters"

    return case


def _changed(rng: random.Random, content: dict) -> dict:
    """A part or a parameter taken out, doubled in size or replaced."""
    content = {name: dict(part) if isinstance(part, dict) else part for name, part in content.items()}
    others = (None, 3, "x", [], {}, {0: "a"}, torch.zeros(2), torch.full((2,), float("nan")), torch.zeros(0))
    for _ in range(rng.randint(1, 2)):
        part = rng.choice(list(content))
        holder = content
        if isinstance(content[part], dict) and content[part] and rng.random() < 0.8:
            holder, part = content[part], rng.choice(list(content[part]))
        if rng.random() < 0.4:
            del holder[part]
        elif isinstance(holder[part], torch.Tensor) and rng.random() < 0.5:
            holder[part] = torch.cat([holder[part]] * 2)
        else:
            holder[part] = rng.choice(others)
        if not content:
            break
    return content
