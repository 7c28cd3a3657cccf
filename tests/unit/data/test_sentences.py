"""Text of a batch, taken from fairseq's file in one go: as the dataset gives it line by line."""

import pickle

import numpy as np
import pytest
from fairseq.data.indexed_dataset import MMapIndexedDataset, make_builder

from tiny import sentences, text
from vtlm_fairseq.data.sentences import Sentences

LINES = sentences(20)
ORDER = [3, 19, 0, 3, 7]


@pytest.fixture(params=[100, 70_000, None], ids=["uint16", "int32", "int64"])
def path(request, tmp_path):
    """The sentences as fairseq-preprocess writes them, for dictionaries of some sizes."""
    builder = make_builder(str(tmp_path / "text.bin"), "mmap", vocab_size=request.param)
    for line in LINES:
        builder.add_item(line)
    builder.finalize(str(tmp_path / "text.idx"))
    return tmp_path / "text"


def read(dataset) -> tuple[list[int], list[int]]:
    tokens, sizes = dataset.read(np.array(ORDER))
    assert tokens.dtype == sizes.dtype == np.int64
    return tokens.tolist(), sizes.tolist()


def test_lines_in_any_order_also_where_a_worker_was_spawned(path):
    expected = [token for line in ORDER for token in LINES[line].tolist()], [len(LINES[line]) for line in ORDER]
    mapped = Sentences(MMapIndexedDataset(str(path)))
    assert read(mapped) == read(pickle.loads(pickle.dumps(mapped))) == read(Sentences(text(LINES))) == expected


def test_sentences_are_where_the_index_says(path):
    """Also where they stand in another order than their lines; outside of the file nothing is read."""
    index = path.with_suffix(".idx")
    head, places = index.read_bytes()[:-160], np.frombuffer(index.read_bytes()[-160:], np.int64).copy()
    places[[0, 7]] = places[1], places[0]
    index.write_bytes(head + places.tobytes())
    dataset = MMapIndexedDataset(str(path))
    assert read(Sentences(dataset)) == read(Sentences([dataset[line] for line in range(20)]))
    places[3] = 1 << 40
    index.write_bytes(head + places.tobytes())
    with pytest.raises(ValueError):
        read(Sentences(MMapIndexedDataset(str(path))))
