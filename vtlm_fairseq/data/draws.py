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
_WORD = 1 << 32

_Wide = tuple[np.ndarray, np.ndarray]  # high and low halves of 128-bit numbers

_powers: list[int] = [1]  # _MULTIPLIER ** k, modulo 2 ** 128
_sums: list[int] = [0]  # of the first k powers
_tables = np.zeros((4, 0), dtype=np.uint64)  # halves of both, high and low


class Draws:
    """The first numbers of the generators of some examples.

    Args:
        seed, epoch, stream: as `masking.generator` takes them, from 0 to 2^32 - 1.
        indices: [B] examples, the same.
        count: of 64-bit numbers of each.
    """

    def __init__(self, *, seed: int, epoch: int, indices: np.ndarray, stream: int, count: int) -> None:
        words = [np.full(len(indices), word, np.uint32) for word in (seed, epoch, 0, stream)]
        words[2] = np.asarray(indices, np.uint32)
        start_high, start_low, high, low = (half[:, None] for half in _seed_states(words))
        increment = (high << np.uint64(1)) | (low >> np.uint64(63)), (low << np.uint64(1)) | np.uint64(1)
        # number k is made of the state m^(k+2) start + (1 + m + ... + m^(k+2)) increment
        power_high, power_low, sum_high, sum_low = _table(count + 3)
        more = slice(3, count + 3)
        high, low = _product((power_high[2 : count + 2], power_low[2 : count + 2]), (start_high, start_low))
        more_high, more_low = _product((sum_high[more], sum_low[more]), increment)
        low += more_low
        high += more_high
        high += low < more_low
        turn = high >> np.uint64(58)
        high ^= low
        self._numbers = (high >> turn) | (high << ((np.uint64(64) - turn) & np.uint64(63)))

    def uniform(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """[n] float64 within [0, 1), as ``Generator.random`` gives them.

        Args:
            rows: [n], which generator.
            places: [n], which of its numbers, from 0.
        """
        return (self._numbers[rows, places] >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int, rows: np.ndarray, places: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Integers below ``limit``, as ``Generator.integers`` gives them, which takes half a number for each.

        Args:
            limit: at most 2^32.
            rows: [n], which generator.
            places: [n], which of its integers, from 0.
            first: [n], the number that a generator's first two integers are made of.

        Returns:
            [n] int64; -1 for all those of a generator that rejects one of its numbers, and would go on to another.
        """
        numbers = self._numbers[rows, first + places // 2]
        halves = np.where(places % 2 == 1, numbers >> _32, numbers & _LOW)
        products = halves * np.uint64(limit)
        rejected = (products & _LOW) < np.uint64((_WORD - limit) % limit)
        found = (products >> _32).astype(np.int64)
        if rejected.any():
            found[np.isin(rows, rows[rejected])] = -1
        return found


def _seed_states(entropy: list[np.ndarray]) -> list[np.ndarray]:
    """numpy's SeedSequence of four words, [B] uint32 each -> high and low half of PCG64's state and increment, [B]."""
    constant = 0x43B0D7E5

    def hashed(value: np.ndarray) -> np.ndarray:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * 0x931E8875 % _WORD
        value = value * np.uint32(constant)
        return value ^ (value >> np.uint32(16))

    pool = [hashed(word) for word in entropy]
    for source in range(4):
        for target in range(4):
            if source != target:
                mixed = pool[target] * np.uint32(0xCA01F9DD) - hashed(pool[source]) * np.uint32(0x4973F715)
                pool[target] = mixed ^ (mixed >> np.uint32(16))
    constant, words = 0x8B51F9DD, []
    for k in range(8):
        value = pool[k % 4] ^ np.uint32(constant)
        constant = constant * 0x58F38DED % _WORD
        value = value * np.uint32(constant)
        words.append((value ^ (value >> np.uint32(16))).astype(np.uint64))
    return [words[2 * k] | (words[2 * k + 1] << _32) for k in range(4)]


def _table(length: int) -> np.ndarray:
    """[4, at least ``length``] uint64: high and low halves of the powers, and of their sums."""
    global _tables
    if _tables.shape[1] < length:
        length = max(length, 2 * _tables.shape[1], 1024)
        while len(_powers) < length:
            _sums.append((_sums[-1] + _powers[-1]) % (1 << 128))
            _powers.append(_powers[-1] * _MULTIPLIER % (1 << 128))
        halves = [[value >> 64 for value in _powers], [value & (1 << 64) - 1 for value in _powers]]
        halves += [[value >> 64 for value in _sums], [value & (1 << 64) - 1 for value in _sums]]
        _tables = np.array(halves, dtype=np.uint64)
    return _tables


def _product(one: _Wide, other: _Wide) -> _Wide:
    """Products modulo 2^128."""
    (one_high, one_low), (other_high, other_low) = one, other
    a, b, c, d = one_low >> _32, one_low & _LOW, other_low >> _32, other_low & _LOW
    inner, outer, low = a * d, b * c, b * d
    carry = ((low >> _32) + (inner & _LOW) + (outer & _LOW)) >> _32
    high = a * c + (inner >> _32) + (outer >> _32) + carry
    return high + one_high * other_low + one_low * other_high, one_low * other_low
