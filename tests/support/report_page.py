"""What a page of ``vtlm-report`` holds, read as its script reads it."""

import base64
import gzip
import json
import re
from dataclasses import dataclass

import numpy as np


@dataclass
class Packed:
    """Contents of a page.

    Attributes:
        facts: the JSON: sentences, labels, pictures, which layers there are (``planes``, 0 is their mean) and which is
            shown first (``plane``).
        weights: by sentence, [planes, queries, words + regions].
    """

    facts: dict
    weights: list[np.ndarray]

    @property
    def sentences(self) -> list[dict]:
        """Of the JSON."""
        return self.facts["sentences"]

    def words(self, sentence: int, line: int) -> list[str]:
        """Of a line of a sentence."""
        return [word[0] for word in self.sentences[sentence]["lines"][line]["words"]]


def unpack(page: str) -> Packed:
    """Read the data of a page."""
    (content,) = re.findall(r'<script type="text/plain" id="data">(.*?)</script>', page)
    line, _, coded = gzip.decompress(base64.b64decode(content)).partition(b"\n")
    facts, values = json.loads(line), np.frombuffer(coded, dtype=np.uint8)
    weights, planes, end = [], len(facts["planes"]), 0
    for sentence in facts["sentences"]:
        shape = (planes, sentence["queries"], sentence["keys"] + len(sentence["regions"]))
        assert sentence["start"] == end
        end += int(np.prod(shape))
        weights.append((values[sentence["start"] : end].reshape(shape) / 255) ** 2)
    assert end == len(values)
    return Packed(facts, weights)
