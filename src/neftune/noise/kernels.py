# pyright: standard
# Triton has no types to be strict about.
"""The noise into embeddings on a GPU by one Triton kernel: they are read once, written once, nothing else is as large.

Equal bit for bit to `neftune.noise.add.add_` in torch. It takes contiguous float32, bfloat16 and float16 embeddings and
the registered distributions; `supports` says what it takes, everything else goes through torch. For the sphere a
kernel before it draws the same numbers once, for each token's norm alone.

The product of number and scale is rounded before it is added: on a device every launch says
``enable_fp_fusion=False``, or both would be one instruction that rounds once. Triton's interpreter
(TRITON_INTERPRET=1) runs numpy, which contracts nothing, yet it cuts a float32 off to bfloat16 where devices round.

# N tokens of the flattened batch, D width
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from neftune.noise.add import Squares
from neftune.noise.distributions import Distribution, distributions, quantile_table, sphere_factor
from neftune.noise.tokens import TokenNoise

if not hasattr(tl, "tuple"):
    raise ImportError(f"the noise's kernels need Triton 3.3 or newer (torch 2.7 brings it), got {triton.__version__}.")

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_UNIFORM, _BERNOULLI, _GAUSSIAN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_KINDS = {
    distributions["uniform"].numbers: _UNIFORM.value,
    distributions["bernoulli"].numbers: _BERNOULLI.value,
    distributions["gaussian"].numbers: _GAUSSIAN.value,
}
_BLOCKS_PER_WARP = 128
"""Counters: four a thread, so that it moves 16 bytes of 16-bit embeddings at a time."""


@triton.jit
def _halves(word):
    low = (word << 16).to(tl.int32, bitcast=True) >> 16
    high = word.to(tl.int32, bitcast=True) >> 16
    return tl.interleave(low, high)


@triton.jit
def _gaussian(word, table):
    # `distributions._gaussian`, step by step.
    bits = ((word & 0x7FFFFFFF).to(tl.float64) + 0.5).to(tl.int64, bitcast=True)
    cell = (bits >> 45) - (1022 << 7)
    weight = (bits >> 29) & 0xFFFF
    left = tl.load(table + cell)
    right = tl.load(table + cell + 1)
    quantile = left + (((right - left) * weight) >> 16)
    return tl.where(word >> 31 != 0, -quantile, quantile).to(tl.float32)


@triton.jit
def _numbers(word, table, KIND: tl.constexpr):
    if KIND == _UNIFORM:
        return _halves(word).to(tl.float32) + 0.5
    elif KIND == _BERNOULLI:
        return (_halves(word) >> 15).to(tl.float32) * 2 + 1
    else:
        return _gaussian(word, table)


@triton.jit
def _plane(embeddings, rows, is_noised, inside, PLANE: tl.constexpr, WIDTH: tl.constexpr, PLANE_WIDTH: tl.constexpr):
    # Where the channels of word number PLANE of every counter lie, and which of them there are.
    channels = PLANE * PLANE_WIDTH + inside
    mask = is_noised[:, None] & ((inside < PLANE_WIDTH) & (channels < WIDTH))[None, :]
    return embeddings + rows.to(tl.int64)[:, None] * WIDTH + channels[None, :], mask


@triton.jit
def _clean(places, mask):
    return tl.load(places, mask=mask, other=0).to(tl.float32)


@triton.jit
def _words(rows, is_noised, keys, positions, blocks, draw_low, draw_high):
    key = tl.load(keys + rows, mask=is_noised, other=0)[:, None]
    position = tl.load(positions + rows, mask=is_noised, other=0).to(tl.uint32)[:, None]
    return tl.philox(key, position, blocks[None, :], draw_low, draw_high)


@triton.jit(do_not_specialize=["num_tokens", "draw_low", "draw_high"])
def _add(  # noqa: PLR0913 (a kernel takes its memory piece by piece)
    keys,
    positions,
    noised,
    num_tokens,
    draw_low,
    draw_high,
    table,
    embeddings,
    factors,
    noise_squares,
    signal_squares,
    KIND: tl.constexpr,
    WIDTH: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    PER_WORD: tl.constexpr = tl.constexpr(1 if KIND == _GAUSSIAN else 2)
    PLANE_WIDTH: tl.constexpr = PER_WORD * NUM_BLOCKS
    CHANNELS: tl.constexpr = PER_WORD * BLOCKS
    rows, start = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * BLOCKS
    is_noised = tl.load(noised + rows, mask=rows < num_tokens, other=0) != 0
    noise_sums, signal_sums = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    if tl.max(is_noised.to(tl.int32), 0) > 0:
        inside = PER_WORD * start + tl.arange(0, CHANNELS)
        place0, mask0 = _plane(embeddings, rows, is_noised, inside, 0, WIDTH, PLANE_WIDTH)
        place1, mask1 = _plane(embeddings, rows, is_noised, inside, 1, WIDTH, PLANE_WIDTH)
        place2, mask2 = _plane(embeddings, rows, is_noised, inside, 2, WIDTH, PLANE_WIDTH)
        place3, mask3 = _plane(embeddings, rows, is_noised, inside, 3, WIDTH, PLANE_WIDTH)
        places, masks = (place0, place1, place2, place3), (mask0, mask1, mask2, mask3)
        # All is on its way from memory while the words are drawn.
        clean = _clean(place0, mask0), _clean(place1, mask1), _clean(place2, mask2), _clean(place3, mask3)
        words = _words(rows, is_noised, keys, positions, start + tl.arange(0, BLOCKS), draw_low, draw_high)
        factor = tl.load(factors + rows, mask=is_noised, other=0)[:, None]
        for i in tl.static_range(4):
            noise = _numbers(words[i], table, KIND) * factor
            tl.store(places[i], (clean[i] + noise).to(embeddings.dtype.element_ty), mask=masks[i])
            noise = tl.where(masks[i], noise, 0.0)
            noise_sums += noise * noise
            signal_sums += clean[i] * clean[i]
    # Summed side by side: apart, the compiler draws the words once for each sum.
    noise_sum, signal_sum = tl.split(tl.sum(tl.join(noise_sums, signal_sums), 1))
    place = tl.program_id(1) * num_tokens + rows
    tl.store(noise_squares + place, noise_sum, mask=rows < num_tokens)
    tl.store(signal_squares + place, signal_sum, mask=rows < num_tokens)


@triton.jit(do_not_specialize=["num_tokens", "draw_low", "draw_high"])
def _square(  # noqa: PLR0913 (as above)
    keys,
    positions,
    noised,
    num_tokens,
    draw_low,
    draw_high,
    table,
    squares,
    KIND: tl.constexpr,
    WIDTH: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    # Whole numbers (KIND is _GAUSSIAN): their squares add up to the same in any order.
    rows, start = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * BLOCKS
    is_noised = tl.load(noised + rows, mask=rows < num_tokens, other=0) != 0
    blocks = start + tl.arange(0, BLOCKS)
    words = _words(rows, is_noised, keys, positions, blocks, draw_low, draw_high)
    sums = tl.zeros((ROWS, BLOCKS), tl.int64)
    for i in tl.static_range(4):
        there = (blocks < NUM_BLOCKS) & (i * NUM_BLOCKS + blocks < WIDTH)
        number = tl.where(there[None, :], _numbers(words[i], table, KIND).to(tl.int64), 0)
        sums += number * number
    tl.store(squares + tl.program_id(1) * num_tokens + rows, tl.sum(sums, 1), mask=rows < num_tokens)


def supports(embeddings: Tensor, noise: TokenNoise) -> bool:
    """Whether the kernel adds this noise to these embeddings."""
    is_plain = type(embeddings) is Tensor and embeddings.is_contiguous() and embeddings.numel() > 0
    return is_plain and embeddings.dtype in _DTYPES and noise.entry.numbers in _KINDS


def add_noise_(embeddings: Tensor, noise: TokenNoise) -> Squares:
    """`neftune.noise.add.add_` for what `supports` takes. Tokens without noise are neither read nor written."""
    num_tokens, settings = noise.noised.numel(), launch_settings(noise.width, noise.entry)
    chunks = -(-settings["NUM_BLOCKS"] // settings["BLOCKS"])
    grid = -(-num_tokens // settings["ROWS"]), chunks
    tokens = (
        noise.keys.contiguous(),
        noise.positions.contiguous(),
        noise.noised.contiguous(),
        num_tokens,
        _signed(noise.draw),
        _signed(noise.draw >> 32),
        quantile_table(embeddings.device),
    )
    # Two pieces of memory: a part's alignment would vary with the batch, and the kernel be compiled for each.
    sums = [torch.empty((chunks, num_tokens), dtype=torch.float32, device=embeddings.device) for _ in range(2)]
    # Triton launches on the current device.
    with torch.cuda.device_of(embeddings):
        if noise.entry.on_sphere:
            squares = torch.empty((chunks, num_tokens), dtype=torch.int64, device=embeddings.device)
            _square[grid](*tokens, squares, **settings)
            factors = sphere_factor(squares.sum(dim=0), noise.scale, width=noise.width)
        else:
            factors = noise.scale * 2.0**-noise.entry.fraction_bits
        _add[grid](*tokens, embeddings, factors, sums[0], sums[1], **settings)
    return Squares(*(one[0] if chunks == 1 else one.sum(dim=0) for one in sums))


def launch_settings(width: int, entry: Distribution) -> dict[str, Any]:
    """What the kernel is compiled for: one warp for every 128 counters of a program.

    A program takes part of one token, or several narrow tokens. Its size is a power of two: of those that leave the
    fewest places empty, the largest.
    """
    num_blocks = entry.num_blocks(width)
    if num_blocks < _BLOCKS_PER_WARP:
        blocks = 1 << (num_blocks - 1).bit_length()
    else:
        blocks = min((512, 256, 128), key=lambda blocks: -(-num_blocks // blocks) * blocks)
    return {
        "KIND": _KINDS[entry.numbers],
        "WIDTH": width,
        "NUM_BLOCKS": num_blocks,
        "ROWS": max(1, _BLOCKS_PER_WARP // blocks),
        "BLOCKS": blocks,
        "num_warps": max(1, blocks // _BLOCKS_PER_WARP),
        "enable_fp_fusion": False,
    }


def _signed(word: int) -> int:
    """The low 32 bits as an int32: were the type to depend on the value, the kernel would be compiled again."""
    word &= 0xFFFFFFFF
    return word - (word >> 31 << 32)
