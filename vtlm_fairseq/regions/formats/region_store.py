"""A region store as the source of another: with other ids, another dtype, or classes for a grid's cells."""

from collections.abc import Iterator

import numpy as np

from vtlm_fairseq.regions.formats.input_image import ImageSource, InputImage, Listed
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.store import RegionStore


class StoreImages(ImageSource):
    """Images of a store, in its order, with all their regions.

    Attributes:
        detector: what made the regions.
        num_soft: class scores of each region, which are kept unless another number is given.

    Raises:
        VTLMError: no such store, or one that cannot be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._store = RegionStore(store_files(path, option="--store "), None)
        self.further_files = tuple(sorted(self._store.sources))
        self._ids = self._store.ids()
        self.feature_dim, self.detector = self._store.feature_dim, self._store.detector
        self.class_names = self._store.class_names
        self.has_labels = len(self.class_names) > 1
        self.num_soft = self._store.num_soft
        self.has_soft_labels = self.num_soft > 0

    def __len__(self) -> int:
        return len(self._ids)

    def listed(self) -> list[Listed]:
        """Its images."""
        return [Listed(image_id, self._path) for image_id in self._ids]

    def records(self) -> Iterator[int]:
        """Rows of the store."""
        return iter(range(len(self._ids)))

    def read(self, row: int) -> InputImage:
        """The image of a row."""
        image = InputImage(self._ids[row], self._path, *self._store[row])
        if not self.num_soft:
            return image
        return image._replace(soft_labels=self._store.read_soft(np.array([row])).dense(len(self.class_names)))
