"""What `vtlm-regions` makes stores of, for the tests."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from stores import ends_with
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.regions.store import RegionStore


class Here:
    """Answers of :class:`vtlm_fairseq.regions.formats.child.Child`, from this process."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], where: str, *, memory: int = 0):
        self.make, self.answer = make, None

    def ask(self, request: Any) -> Any:
        """The answer to a request."""
        self.answer = self.answer or self.make()
        return self.answer(request)

    def close(self) -> None:
        """What is asked next begins anew."""
        self.answer = None


def convert(out, *argv) -> RegionStore:
    """Convert and open the store, which `validate` must find sound."""
    assert main([str(a) for a in ("convert", *argv, "--out", out)]) == 0
    assert main(["validate", str(out)]) == 0
    return RegionStore([str(out)])


def fails(*argv) -> str:
    """The one line with which a command ends."""
    return ends_with(main, [str(a) for a in argv])


def coco(tmp_path, **changes):
    """A COCO file of two images, the second without annotations, and the features of the first."""
    content = {
        "images": [
            {"id": 9, "width": 200, "height": 100, "file_name": "cat.jpg"},
            {"id": 4, "width": 50, "height": 50, "file_name": "none.jpg"},
        ],
        "categories": [{"id": 90, "name": "tree"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": 9, "category_id": 90, "bbox": [20, 10, 60, 80], "score": 0.25},
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 200, 50], "score": 0.5},
        ],
    }
    content.update(changes)
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (tmp_path / "f").mkdir(exist_ok=True)
    np.save(tmp_path / "f/cat.npy", np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    return content
