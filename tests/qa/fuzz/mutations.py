"""Damage to bytes, and text that parsers stumble over."""

import random
import string
import struct

ODD_CHARACTERS = (
    "\0", "\x01", "\t", "\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\u00a0", "\u00ad", "\u0301",
    "\u2028", "\u2029", "\u200b", "\u200d", "\u202e", "\u2581", "\u3000", "\ufeff", "\ufffd", "\uffff",
    "\U0001f469\u200d\U0001f4bb", "\U0010ffff", "\u00e4", "a\u0308", "\u00df", "\u0130", "\ufb01", "\u4e2d\u6587",
    "\u0639\u0631", "\u1100\u1161", "%", "\\", "'", '"', "&", "&apos;", "&#124;", "<", ">", "[", "]", "|", "@", "@@",
    "@@ ", "@-@", "<mask>", "< mask >", "<MASK>", "<unk>", "</s>", "<s>", "<pad>", "madeupword0000",
    "#fairseq:overwrite", "--", "...", '."', "`` ''", "1,000.5", "http://a.b/c?d=e#f", "a@b.c",
)  # fmt: skip
WORDS = ("a", "man", "bank", "ein", "Mann", "Ufer", "gr\u00fcn", "Stra\u00dfe", "don't", "it's", "U.S.")
NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)


def damage(rng: random.Random, data: bytes, *, most: int = 4) -> bytes:
    """Bytes with one to ``most`` faults: flipped bits, cut, missing, repeated, zeroed or foreign parts."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(changed)) if changed else 0
        length = min(rng.choice((1, 1, 2, 4, 8, 64, 512)), max(0, len(changed) - at))
        kind = rng.randrange(8)
        if kind <= 1 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 3:
            del changed[at : None if rng.random() < 0.3 else at + length]
        elif kind == 4:
            changed[at:at] = rng.randbytes(rng.choice((1, 2, 8, 100)))
        elif kind == 5:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 6:
            changed[at : at + length] = bytes(length)
        else:
            code = rng.choice("<>") + rng.choice("BHIQ")
            size = struct.calcsize(code)
            changed[at : at + size] = struct.pack(code, rng.choice(NUMBERS) % (1 << 8 * size))
    return bytes(changed)


def word(rng: random.Random) -> str:
    """A word, an odd character, or both."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(WORDS)
    if kind < 0.7:
        return rng.choice(ODD_CHARACTERS)
    if kind < 0.85:
        return "".join(rng.choice(ODD_CHARACTERS + WORDS) for _ in range(rng.randint(1, 4)))
    if kind < 0.97:
        return "".join(rng.choice(string.printable) for _ in range(rng.randint(1, 12)))
    return "".join(chr(rng.choice([n for n in (rng.randrange(0x110000),) if not 0xD800 <= n < 0xE000] or [65]))
                   for _ in range(rng.randint(1, 30)))  # fmt: skip


def sentence(rng: random.Random) -> str:
    """A caption: often short, now and then empty, very long or of one endless word."""
    kind = rng.random()
    if kind < 0.03:
        return rng.choice(("", " ", "\n", "\u3000", "\u2028", "<mask>"))
    if kind < 0.031:
        return " ".join(rng.choice(WORDS) for _ in range(10_000))
    if kind < 0.033:
        return word(rng) * rng.choice((100, 1000, 3000))
    separator = rng.choice((" ", " ", " ", "", "\t", "  ", "\u00a0"))
    return separator.join(word(rng) for _ in range(rng.randint(1, 25)))


def encoded(rng: random.Random, text: str) -> bytes:
    """UTF-8, sometimes damaged or in another encoding."""
    kind = rng.random()
    if kind < 0.85:
        return text.encode("utf-8")
    if kind < 0.95:
        return damage(rng, text.encode("utf-8"))
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32")), "replace")
