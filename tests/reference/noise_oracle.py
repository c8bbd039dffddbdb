"""The noise by plain Python integers, one document, one token, one channel at a time: slow and obvious."""

import math
import struct
from statistics import NormalDist

LOW = (1 << 32) - 1
ALL = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10, as written in Salmon et al. 2011, figure 4 and section 3."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(c[0] * 0xD2511F53, 1 << 32)
        high1, low1 = divmod(c[2] * 0xCD9E8D57, 1 << 32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) & LOW, (k[1] + 0xBB67AE85) & LOW]
    return c[0], c[1], c[2], c[3]


def mix(x: int) -> int:
    """SplitMix64's output function."""
    x &= ALL
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ALL
    return x ^ (x >> 31)


def document_key(tokens: list[int]) -> int:
    """The hash of a document's token ids."""
    total = sum(mix(token + (i + 1) * GOLDEN) for i, token in enumerate(tokens))
    return mix(total + len(tokens) * GOLDEN)


def float32(x: float) -> float:
    """Rounded to single precision."""
    return struct.unpack("f", struct.pack("f", x))[0]


def words(position: int, width: int, *, bits: int, draw: int, key: int) -> list[int]:
    """A token's random words: word k is word k // blocks of Philox at block k % blocks."""
    blocks = -(-width // (128 // bits))
    made = [philox((position, j, draw & LOW, draw >> 32), (key & LOW, key >> 32)) for j in range(blocks)]
    return [made[k % blocks][k // blocks] for k in range(4 * blocks)]


def halves(word: int) -> tuple[int, int]:
    """The low and the high 16 bits as signed numbers."""
    low, high = word & 0xFFFF, word >> 16
    return low - (low >> 15 << 16), high - (high >> 15 << 16)


def uniform(half: int) -> float:
    """The middle of the half word's cell: 2**16 equal cells from -1 to 1."""
    return (half + 0.5) / 2**15


def gaussian(word: int) -> float:
    """The exact normal quantile that the word stands for."""
    size = (word & 0x7FFFFFFF) + 0.5
    quantile = -NormalDist().inv_cdf(size / 2**32)
    return -quantile if word >> 31 else quantile


def bernoulli(half: int) -> float:
    """The half word's sign."""
    return -1.0 if half < 0 else 1.0


def token_numbers(distribution: str, position: int, width: int, *, draw: int, key: int) -> list[float]:
    """A token's random numbers, one a channel."""
    if distribution in ("uniform", "bernoulli"):
        number = uniform if distribution == "uniform" else bernoulli
        drawn = words(position, width, bits=16, draw=draw, key=key)
        return [number(half) for word in drawn for half in halves(word)][:width]
    numbers = [gaussian(word) for word in words(position, width, bits=32, draw=draw, key=key)][:width]
    if distribution == "sphere":
        norm = math.sqrt(sum(number**2 for number in numbers))
        numbers = [number / norm * math.sqrt(width) for number in numbers]
    return numbers


def document_noise(
    tokens: list[int],
    width: int,
    *,
    alpha: float,
    seed: int = 0,
    draw: int = 0,
    distribution: str = "uniform",
    match: str = "rms",
) -> list[list[float]]:
    """The noise of one document, by default the paper's: rows of positions, columns of channels."""
    key = mix(document_key(tokens) ^ mix(seed))
    if match == "rms" and distribution != "uniform":
        alpha /= math.sqrt(3)  # the others have a standard deviation of 1
    scale = float32(alpha / math.sqrt(len(tokens) * width))
    if distribution == "bernoulli":  # an odd draw mirrors the even one before it
        draw, scale = draw // 2, -scale if draw % 2 else scale
    return [
        [float32(number * scale) for number in token_numbers(distribution, position, width, draw=draw, key=key)]
        for position in range(len(tokens))
    ]
