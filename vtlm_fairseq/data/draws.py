"""Random numbers of many examples at once: those that numpy's generator of each example would give.

An example's draws depend on (seed, epoch, example) alone, so it has a generator of its own (`masking.generator`), which
takes longer to make than to use. Here the generators of a batch are computed side by side: numpy's SeedSequence, and
PCG64, whose k-th number can be had without those before it (O'Neill, "PCG: A Family of Simple Fast Space-Efficient
Statistically Good Algorithms for Random Number Generation", 2014). numpy promises that both stay as they are.
"""

import numpy as np

_MULTIPLIER = (2549297995355413924 << 64) + 4865540595714422341  # of PCG64
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_16 = np.uint32(16)
_WORD = 1 << 32

_Wide = tuple[np.ndarray, np.ndarray]  # high and low halves of 128-bit numbers

_POOL, _WORDS = (  # factors of SeedSequence's hashes, each the last one times a number
    np.array([first * pow(number, k, _WORD) % _WORD for k in range(count)], np.uint32)[:, None]
    for first, number, count in ((0x43B0D7E5, 0x931E8875, 17), (0x8B51F9DD, 0x58F38DED, 9))
)
_OTHERS = [[other for other in range(4) if other != one] for one in range(4)]

_sums: list[int] = [0]  # of the first k powers of _MULTIPLIER, modulo 2 ** 128
_table = np.zeros((2, 0), dtype=np.uint64)  # their halves, high and low


class Draws:
    """The numbers of the generators of some examples.

    Args:
        states: [4, B] uint64, high and low half of each generator's first state, and of the step from it to the next.
    """

    def __init__(self, states: np.ndarray) -> None:
        self._states = states

    def _numbers(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        # A step makes m x + i of a state x; n steps x + (1 + m + ... + m^(n-1)) ((m - 1) x + i).
        # Number k is made of the state after k + 2.
        start_high, start_low, *growth = (half[rows] for half in self._states)
        high, low = _product(tuple(_table_of(int(places.max(initial=0)) + 3)[:, places + 2]), tuple(growth))
        low += start_low
        high += start_high
        high += low < start_low
        turn = high >> np.uint64(58)
        high ^= low
        return (high >> turn) | (high << ((np.uint64(64) - turn) & np.uint64(63)))

    def uniform(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Float64 within [0, 1), as ``Generator.random`` gives them.

        Args:
            rows: which generator.
            places: which of its numbers, from 0; of a shape that fits that of rows, as in all operations of numpy.
        """
        return (self._numbers(rows, places) >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int, rows: np.ndarray, count: int, first: np.ndarray) -> np.ndarray:
        """Integers below ``limit``, as ``Generator.integers`` gives them, which takes half a number for each.

        Args:
            limit: at most 2^32.
            rows: [k], which generators.
            count: of integers of each.
            first: [k], the number that a generator's first two integers are made of.

        Returns:
            [k, count] int64; -1 for all those of a generator that rejects one of its numbers, and would go on to
            another.
        """
        half = -(-count // 2)
        numbers = self._numbers(rows[:, None], first[:, None] + np.arange(half))
        products = np.stack([numbers & _LOW, numbers >> _32], axis=2).reshape(len(rows), 2 * half)[:, :count]
        products *= np.uint64(limit)
        found = (products >> _32).astype(np.int64)
        found[((products & _LOW) < np.uint64((_WORD - limit) % limit)).any(axis=1)] = -1
        return found


def make_draws(*, seed: int, epoch: int, indices: np.ndarray, streams: tuple[int, ...]) -> list[Draws]:
    """Those of each stream.

    Args:
        seed, epoch, streams: as `masking.generator` takes them, from 0 to 2^32 - 1.
        indices: [B] examples, the same.
    """
    size = len(indices)
    words = np.empty((4, len(streams), size), np.uint32)
    words[0], words[1], words[2], words[3] = seed, epoch, indices, np.array(streams)[:, None]
    start_high, start_low, high, low = _seed_states(words.reshape(4, -1))
    increment = (high << np.uint64(1)) | (low >> np.uint64(63)), (low << np.uint64(1)) | np.uint64(1)
    start = _sum((start_high, start_low), increment)
    factor = np.uint64(_MULTIPLIER - 1 >> 64), np.uint64(_MULTIPLIER - 1 & (1 << 64) - 1)
    states = np.stack([*start, *_sum(_product(factor, start), increment)])
    return [Draws(part) for part in np.split(states, len(streams), axis=1)]


def _seed_states(entropy: np.ndarray) -> np.ndarray:
    """numpy's SeedSequence of four words, [4, B] uint32 -> high and low half of PCG64's state and increment, [4, B]."""
    pool = _hashed(entropy, _POOL[:5])
    for source in range(4):
        others = _OTHERS[source]
        hashed = _hashed(pool[source], _POOL[4 + 3 * source :][:4])
        mixed = pool[others] * np.uint32(0xCA01F9DD) - hashed * np.uint32(0x4973F715)
        pool[others] = mixed ^ (mixed >> _16)
    words = _hashed(np.concatenate([pool, pool]), _WORDS).astype(np.uint64)
    return words[::2] | (words[1::2] << _32)


def _hashed(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """A hash of each row of [k, B] uint32, of [B] k hashes; each step is made of two factors, [k + 1, 1]."""
    values = (values ^ factors[:-1]) * factors[1:]
    return values ^ (values >> _16)


def _table_of(length: int) -> np.ndarray:
    """[2, at least ``length``] uint64: high and low halves of `_sums`."""
    global _table
    if _table.shape[1] < length:
        length = max(length, 2 * _table.shape[1], 1024)
        while len(_sums) < length:
            _sums.append((_sums[-1] * _MULTIPLIER + 1) % (1 << 128))
        _table = np.array([[value >> 64 for value in _sums], [value & (1 << 64) - 1 for value in _sums]], np.uint64)
    return _table


def _sum(one: _Wide, other: _Wide) -> _Wide:
    """Sums modulo 2^128."""
    low = one[1] + other[1]
    return one[0] + other[0] + (low < one[1]), low


def _product(one: _Wide, other: _Wide) -> _Wide:
    """Products modulo 2^128."""
    (one_high, one_low), (other_high, other_low) = one, other
    a, b, c, d = one_low >> _32, one_low & _LOW, other_low >> _32, other_low & _LOW
    inner, outer, low = a * d, b * c, b * d
    carry = ((low >> _32) + (inner & _LOW) + (outer & _LOW)) >> _32
    high = a * c + (inner >> _32) + (outer >> _32) + carry
    return high + one_high * other_low + one_low * other_high, one_low * other_low
