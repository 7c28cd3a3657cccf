"""A sentence pair and its image, as the readers of captions give it."""

from typing import NamedTuple


class Pair(NamedTuple):
    """A sentence pair and the id of its image.

    Attributes:
        image: the id, or what the captions call the image.
        source, target: the sentences.
        place: where it was read, for messages.
        prefix: stands before the id, behind the rules that change it: the name of the shard.
        reason: why the pair cannot be used; empty where it can.
        shard: the name of the shard as a prefix, used or not; empty where it is from none.
    """

    image: str
    source: str
    target: str
    place: str = ""
    prefix: str = ""
    reason: str = ""
    shard: str = ""
