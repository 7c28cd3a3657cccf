"""Labels and colours of Flickr30k Entities boxes, from the captions that Multi30k does not translate.

A phrase's head is its last word that holds a letter, lower-case and singular. The classes are the commonest
heads of the training split. A box may belong to several chains: the one with fewest boxes (then the smaller
number) whose phrases name a class decides. The label is that chain's commonest class, ties to the smaller class
id; where the chain is not the box's own first one, and so speaks of a group ("three women"), it is the class
that it is first called by. A box that no caption names has no label and is left out of the store.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vtlm_fairseq.corpora.flickr30k_entities import COLOURS, Caption, ImageEntities, Phrase
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.nouns import singular

NUM_CLASSES = 600

_NO_CLASS = frozenset("one something it them each other group couple".split())


@dataclass(frozen=True)
class LabelledBox:
    """A box that has a label.

    Attributes:
        xyxy: corners in pixels.
        label: class id.
        colours: colour words of all phrases of its chains, sorted.
    """

    xyxy: tuple[int, int, int, int]
    label: int
    colours: tuple[str, ...]

    @property
    def area(self) -> int:
        """Area in square pixels."""
        x1, y1, x2, y2 = self.xyxy
        return (x2 - x1) * (y2 - y1)


def head(phrase: Phrase) -> str | None:
    """Head noun of a phrase; None where no word holds a letter ("the number 12" gives "number")."""
    for word in reversed(phrase.words):
        if any(character.isalpha() for character in word):
            return singular(word)
    return None


def other_captions(image: ImageEntities, translated: int) -> list[Caption]:
    """The captions of an image without the one that Multi30k translates.

    Raises:
        VTLMError: there is no caption of that number.
    """
    if not 0 <= translated < len(image.captions):
        raise VTLMError(
            f"image {image.image_id}: caption {translated} of {len(image.captions)} is named as the translated one; "
            "see --translated-captions (counted from 0)"
        )
    return [caption for i, caption in enumerate(image.captions) if i != translated]


def collect_classes(captions: Iterable[Caption], *, limit: int = NUM_CLASSES) -> list[str]:
    """The commonest heads, most frequent first, equally frequent ones by name."""
    counts = Counter(h for caption in captions for phrase in caption.phrases if (h := head(phrase)))
    names = sorted(counts.keys() - _NO_CLASS, key=lambda name: (-counts[name], name))
    return names[:limit]


def label_boxes(image: ImageEntities, captions: Sequence[Caption], class_ids: dict[str, int]) -> list[LabelledBox]:
    """Boxes of an image that the captions name, larger area first (equal areas as in the annotation).

    Args:
        image: gives boxes and chains; its own captions are not read.
        captions: those that may be read.
        class_ids: id of each class name.
    """
    heads: dict[int, list[int]] = defaultdict(list)
    colours: dict[int, set[str]] = defaultdict(set)
    for caption in captions:
        for phrase in caption.phrases:
            name = head(phrase)
            if name in class_ids:
                heads[phrase.chain].append(class_ids[name])
            colours[phrase.chain].update(COLOURS.intersection(word.lower() for word in phrase.words))
    sizes = Counter(chain for box in image.boxes for chain in box.chains)
    labelled = []
    for box in image.boxes:
        chains = sorted(box.chains, key=lambda chain: (sizes[chain], chain))
        named = next((rank for rank, chain in enumerate(chains) if heads.get(chain)), None)
        if named is None:
            continue
        found = heads[chains[named]]
        label = found[0] if named > 0 else min(found, key=lambda name: (-found.count(name), name))
        seen = set().union(*(colours.get(chain, ()) for chain in chains))
        labelled.append(LabelledBox(box.xyxy, label, tuple(sorted(seen))))
    return sorted(labelled, key=lambda box: -box.area)
