"""What the noise of every token of a batch follows from, and the numbers themselves.

# N tokens of the flattened batch, D width
"""

from dataclasses import dataclass

from torch import Tensor

from neftune.errors import NoiseError
from neftune.noise.distributions import Distribution
from neftune.noise.documents import Layout, document_keys
from neftune.noise.hashing import GOLDEN, mix, mix_int, signed
from neftune.noise.philox import random_words
from neftune.noise.settings import NoiseSettings

_DRAWS = 1 << 64


@dataclass(frozen=True, slots=True)
class TokenNoise:
    """The noise of a batch before it is drawn: a few numbers per token.

    Attributes:
        keys: Key of the token's document and the seed, int64 (N,).
        positions: Position in its document, int64 (N,).
        scale: What its random numbers are multiplied with, float32 (N,); 0 where there is no noise.
        noised: Which tokens get noise, bool (N,).
        width: D.
        draw: The exposure, in [0, 2**64).
        entry: The distribution.
    """

    keys: Tensor
    positions: Tensor
    scale: Tensor
    noised: Tensor
    width: int
    draw: int
    entry: Distribution

    def values(self, rows: slice | Tensor) -> Tensor:
        """The noise of some tokens, float32 (len(rows), D)."""
        num_blocks = self.entry.num_blocks(self.width)
        words = random_words(self.keys[rows], self.positions[rows], num_blocks=num_blocks, draw=self.draw)
        return self.entry.sample(words, self.scale[rows], width=self.width)


def token_keys(layout: Layout, *, input_ids: Tensor | None, keys: Tensor | None) -> Tensor:
    """Every token's document key, int64 (B, T): the given ones, else a hash of the ids, else the document's number.

    Raises:
        NoiseError: The keys or ids have another shape than the batch.
    """
    shape = tuple(layout.real.shape)
    if keys is not None:
        if tuple(keys.shape) not in (shape[:1], shape) or keys.is_floating_point():
            raise NoiseError(
                f"document_keys must be integers, one per row {[shape[0]]} or one per token {list(shape)}, got "
                f"{keys.dtype} of shape {list(keys.shape)}. In packed rows give one per token."
            )
        given = keys.to(device=layout.real.device, dtype=layout.position.dtype)
        if given.ndim == 2:
            return given
        # Documents that share a row share its key: the number in the row tells them apart, and is 0 for a single one.
        return given[:, None] + (layout.document - layout.document[:, :1]) * signed(GOLDEN)
    if input_ids is None:
        return layout.document
    if tuple(input_ids.shape) != shape:
        raise NoiseError(
            f"input_ids must have the shape of the tokens, {list(shape)}, got {list(input_ids.shape)}. "
            "Pass the ids that were embedded."
        )
    return document_keys(input_ids, layout)


def token_noise(
    layout: Layout,
    keys: Tensor,
    settings: NoiseSettings,
    *,
    alpha: float,
    width: int,
    draw: int,
    chosen: Tensor | None = None,
    multiplier: float = 1.0,
) -> TokenNoise:
    """The noise of a batch's tokens.

    Args:
        layout: Documents of the batch.
        keys: Document key of every token, int64 (B, T).
        settings: What noise.
        alpha: The paper's scale at this moment.
        width: D.
        draw: The exposure, taken modulo 2**64.
        chosen: Which of the real tokens get noise, bool (B, T); None for all.
        multiplier: m, the factor that the embedding module itself applies.
    """
    draw %= _DRAWS
    sign = 1.0
    if settings.entry.paired:
        draw, sign = draw >> 1, -1.0 if draw & 1 else 1.0
    noised = layout.real if chosen is None else layout.real & chosen
    scale = settings.scale(layout.length, width, alpha=alpha, multiplier=multiplier) * noised * sign
    return TokenNoise(
        keys=mix(keys ^ signed(mix_int(settings.seed))).flatten(),
        positions=layout.position.flatten(),
        scale=scale.flatten(),
        noised=noised.flatten(),
        width=width,
        draw=draw,
        entry=settings.entry,
    )
