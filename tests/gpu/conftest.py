"""What the GPU tests share: a binarised corpus of regions that tell the words, small enough to learn in seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stores import make_store
from tiny import Folder, dictionary

WORDS, IMAGES, DIM, CLASSES = 41, 64, 16, 8


def pytest_collection_modifyitems(items):
    """Without a CUDA device these tests are skipped."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def gpu_corpus(tmp_path_factory) -> Path:
    """A folder with ``bin`` and ``regions.h5``: sentences of few patterns, target word = source word + 1."""
    root = tmp_path_factory.mktemp("gpu")
    (root / "bin").mkdir()
    folder = Folder(root / "bin", dictionary(WORDS))
    for lang in ("en", "de"):
        folder.dictionary.save(str(root / "bin" / f"dict.{lang}.txt"))
    rng = np.random.default_rng(0)
    for split, pairs in (("train", 512), ("valid", 32), ("test", 40)):
        starts, lengths = rng.integers(0, WORDS, pairs), rng.integers(3, 10, pairs)
        source = [[4 + (s + k) % WORDS for k in range(n)] + [2] for s, n in zip(starts, lengths, strict=True)]
        target = [[4 + (word - 3) % WORDS for word in line[:-1]] + [2] for line in source]
        folder.write(split, source, target, [f"img{s % IMAGES}.jpg" for s in starts])
    make_store(root / "regions.h5", IMAGES, regions=5, feature_dim=DIM, num_classes=CLASSES)
    return root
