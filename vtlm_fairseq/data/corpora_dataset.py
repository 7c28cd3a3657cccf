"""Several corpora in one stream of batches, each batch of one corpus; how often each is seen."""

from collections.abc import Mapping, Sequence

import numpy as np

from vtlm_fairseq.data.batching import CaptionsDataset
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset

CORPUS = "corpus"  # key of an item or a batch: the name of its corpus
_WALK = 200  # of the seeds of orders, so that they are not those of masks


class CorporaDataset(CaptionsDataset):
    """The examples of some corpora that a training sees in an epoch, or all those of a validation set.

    Of a corpus of n examples an epoch has a share that grows as n^(1/temperature), of as many examples as all corpora
    have together. A corpus goes through all of its examples in random order before it begins again, from epoch to
    epoch: each example is seen as often as the others. Which ones an epoch has depends on the seed and the epoch alone.

    An index is a place in the row of all corpora, in which a corpus stands as often as an epoch may show an example of
    it; such copies have masks of their own.

    Args:
        corpora: datasets by name.
        temperature: 1: each example once an epoch; above: the smaller corpora more often.
        seed: of the orders.
        train: as the datasets have it; else each example is there once.
    """

    def __init__(
        self, corpora: Mapping[str, TranslationLMDataset], *, temperature: float = 1, seed: int = 1, train: bool = False
    ) -> None:
        self.corpora = dict(corpora)
        self.train = train
        self.seed = seed
        self.epoch = 1
        self._names, self._parts = list(self.corpora), list(self.corpora.values())
        self._sizes = np.array([len(one) for one in self._parts])
        self.shares = share_out(self._sizes, temperature) if train else self._sizes
        once = np.maximum(self._sizes, 1)
        copies = -(-self.shares // once) + (self.shares % once > 0)  # an epoch may begin and end within a turn
        self._starts = np.cumsum([0, *(self._sizes * copies)])

    def __len__(self) -> int:
        """Examples of an epoch."""
        return int(self.shares.sum())

    @property
    def sizes(self) -> np.ndarray:
        """[N]: positions of the encoder, words and regions, of each index."""
        return self.num_tokens_vec(np.arange(self._starts[-1]))

    def set_epoch(self, epoch: int) -> None:
        """Masks and the choice of examples depend on the epoch in training."""
        super().set_epoch(epoch)
        self.epoch = epoch if self.train else 1
        for one in self._parts:
            one.set_epoch(epoch)

    def _place(self, index: int) -> tuple[int, int]:
        """Which corpus, and the index in there, copies counted on."""
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return which, int(index) - int(self._starts[which])

    def place(self, index: int) -> str:
        """Where an example stands in its text."""
        which, inside = self._place(index)
        return f"{self._parts[which].place(inside % self._sizes[which])} of {self._names[which]}"

    def __getitem__(self, index: int) -> dict:
        """One masked example, and the name of its ``corpus``."""
        which, inside = self._place(index)
        return {**self._parts[which][inside], CORPUS: self._names[which]}

    def __getitems__(self, indices: Sequence[int]) -> tuple[str, Sequence]:
        """The name of their corpus, and some examples that `collater` joins.

        Raises:
            ValueError: they are of several corpora.
        """
        if not len(indices):  # a rank may have no batch
            return self._names[0], []
        places = [self._place(index) for index in indices]
        if len({which for which, _ in places}) > 1:
            raise ValueError("a batch is of one corpus")
        which = places[0][0]
        return self._names[which], self._parts[which].__getitems__([inside for _, inside in places])

    def collater(self, samples: tuple[str, Sequence] | list[dict]) -> dict:
        """Batch of a corpus, see `TranslationLMDataset.collater`, with its name and with ids that are lines in it."""
        if not len(samples):
            return {}
        if not isinstance(samples, tuple):
            (name,) = {item[CORPUS] for item in samples}
            samples = name, samples
        name, examples = samples
        batch = self.corpora[name].collater(examples)
        return {**batch, CORPUS: name} if batch else {}

    def num_tokens(self, index: int) -> int:
        """Cost of an example for ``--max-tokens``: words and regions."""
        which, inside = self._place(index)
        return self._parts[which].num_tokens(inside % self._sizes[which])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same for many examples."""
        costs = np.zeros(len(indices), dtype=np.int64)
        for which, chosen, lines in self._by_corpus(indices):
            costs[chosen] = self._parts[which].num_tokens_vec(lines)
        return costs

    def size(self, index: int) -> tuple[int, int]:
        """Tokens of each sentence, what ``max_positions`` limits."""
        which, inside = self._place(index)
        return self._parts[which].size(inside % self._sizes[which])

    def _by_corpus(self, indices: np.ndarray):
        """Of each corpus that some of the indices are of: which, their places among them, and their lines."""
        indices = np.asarray(indices, dtype=np.int64)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for which in np.unique(owners):
            chosen = np.flatnonzero(owners == which)
            yield int(which), chosen, (indices[chosen] - self._starts[which]) % self._sizes[which]

    def ordered_indices(self) -> np.ndarray:
        """Indices of the epoch, corpus by corpus, each sorted by size; shuffled before in training."""
        ordered = []
        for which, one in enumerate(self._parts):
            indices = self._starts[which] + self._examples(which)
            if self.train:
                indices = indices[np.random.permutation(len(indices))]
                costs = one.num_tokens_vec((indices - self._starts[which]) % max(1, self._sizes[which]))
            else:
                costs = one.num_tokens_vec(np.arange(len(one)))
            ordered.append(indices[np.argsort(costs, kind="stable")])
        return np.concatenate(ordered)

    def _examples(self, which: int) -> np.ndarray:
        """Those of a corpus in this epoch, copies counted on, sorted."""
        size, share = int(self._sizes[which]), int(self.shares[which])
        if not self.train or share == size:
            return np.arange(size)
        first = (self.epoch - 1) * share
        found = []
        for turn in range(first // size, (first + share - 1) // size + 1):
            begin, end = max(first, turn * size) - turn * size, min(first + share, (turn + 1) * size) - turn * size
            lines = np.arange(size)
            if end - begin < size:
                lines = np.random.default_rng((self.seed, _WALK, which, turn)).permutation(size)[begin:end]
            found.append(np.sort(lines) + size * (turn - first // size))
        return np.concatenate(found)

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes):
        """Indices of examples whose sentences fit, and a list of the others."""
        fits = np.ones(len(indices), dtype=bool)
        for which, chosen, lines in self._by_corpus(indices):
            one, known = self._parts[which], np.zeros(self._sizes[which], dtype=bool)
            known[one.filter_indices_by_size(np.arange(len(one)), max_sizes)[0]] = True
            fits[chosen] = known[lines]
        return indices[fits], indices[~fits].tolist()

    def batch_by_size(self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1):
        """As `CaptionsDataset`'s, corpus by corpus."""
        indices, batches = np.asarray(indices), []
        for _, chosen, _ in self._by_corpus(indices):
            batches += super().batch_by_size(indices[chosen], max_tokens, max_sentences, required_batch_size_multiple)
        return batches


def share_out(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """Examples of each corpus in an epoch, [K]: shares as size^(1/temperature), of as many as there are.

    At temperature 1 that is each once. A corpus that is not empty has one at least.
    """
    weights = np.where(sizes > 0, np.maximum(sizes, 1).astype(float) ** (1 / temperature), 0)
    found = np.rint(sizes.sum() * weights / max(weights.sum(), 1e-300)).astype(np.int64)
    return np.where(sizes > 0, np.maximum(found, 1), 0)
