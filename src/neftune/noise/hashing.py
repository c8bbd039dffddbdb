"""64-bit mixing, the same in Python integers and in wrapped-around int64 tensors."""

from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
"""2**64 / golden ratio: its multiples are spread evenly over 64 bits."""

_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def signed(value: int) -> int:
    """The int64 with the bits of ``value`` modulo 2**64."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix_int(value: int) -> int:
    """A 64-bit integer whose every bit depends on every bit of ``value``, a bijection on 64 bits.

    Source: the output function of SplitMix64 (Steele, Lea and Flood 2014).
    """
    value &= _MASK
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        value = ((value ^ (value >> shift)) * multiplier) & _MASK
    return value


def mix(values: Tensor) -> Tensor:
    """`mix_int` of every element of an int64 tensor, as int64 with the same bits."""
    for shift, multiplier in zip(_SHIFTS[:2], _MULTIPLIERS, strict=True):
        values = (values ^ _logical_shift(values, shift)) * signed(multiplier)
    return values ^ _logical_shift(values, _SHIFTS[2])


def _logical_shift(values: Tensor, shift: int) -> Tensor:
    return (values >> shift) & ((1 << (64 - shift)) - 1)
