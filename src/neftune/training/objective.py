"""The loss of a micro-batch with regularisers: penalties on its tokens, further passes over it.

Without a regulariser that touches the loss, the trainer's own stays in place.

# B documents, T positions, D width, N trained tokens of a micro-batch, V vocabulary
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from neftune.errors import ConfigError
from neftune.noise.given import RESPONSE_MASK
from neftune.training.collator import IGNORED
from neftune.training.randomness import random_states, set_random_states
from neftune.training.regularizers import LossAt, MicroBatch, Regularizer, TrainedTokens

if TYPE_CHECKING:
    from trl.trainer.sft_trainer import SFTTrainer

    from neftune.integrations.transformers import NoiseCallback


def set_objective(
    trainer: "SFTTrainer", regularizers: Sequence[Regularizer], *, noise: "NoiseCallback", seed: int
) -> None:
    """Makes the trainer minimise its loss with the regularisers'; changes nothing where none of them touches the loss.

    Args:
        trainer: Its `compute_loss` is replaced.
        regularizers: What stands beside the noise.
        noise: Counts every document once, however often it is passed over.
        seed: The run's.
    """
    touching = [one for one in regularizers if one.reads_tokens or _passes(one)]
    if touching:
        trainer.compute_loss = Objective(trainer, touching, noise=noise, seed=seed)


def _passes(regularizer: Regularizer) -> bool:
    return type(regularizer).loss is not Regularizer.loss


class Objective:
    """Called by the trainer in place of its `compute_loss`."""

    def __init__(
        self, trainer: "SFTTrainer", regularizers: Sequence[Regularizer], *, noise: "NoiseCallback", seed: int
    ) -> None:
        self.trainer: Any = trainer
        self.plain = trainer.compute_loss
        self.regularizers = regularizers
        self.noise = noise
        self.seed = seed
        self.reads_tokens = any(one.reads_tokens for one in regularizers)
        self._has_shifted = False

    def __call__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss of one micro-batch: its trained tokens' sum, over the whole optimiser batch's number of them."""
        assert not return_outputs, "nothing here evaluates through the trainer"
        passes = _Passes(self, model, inputs, num_items_in_batch)
        loss_at: LossAt = passes.token_loss if self.reads_tokens else passes.plain_loss
        for one in filter(_passes, self.regularizers):
            loss_at = _around(one, passes.batch, loss_at)
        return loss_at(None)

    def embedding(self, model: nn.Module) -> Any:
        """The token embedding's module."""
        return self.trainer.accelerator.unwrap_model(model).get_input_embeddings()

    def refuse_lost(self, embedded: Tensor, shifted: Tensor, shift: Tensor) -> None:
        """Refuse, once, a shift that rounding swallows; FreeLB's first may be exactly 0."""
        asked = float(shift.detach().float().square().sum())
        if self._has_shifted or not asked:
            return
        self._has_shifted = True
        kept = float((shifted.detach().float() - embedded.detach().float()).square().sum()) / asked
        if kept < 0.5:
            raise ConfigError(
                f"shifts of the embeddings must survive rounding, {1 - kept:.0%} of their squared norm vanishes in "
                f"{str(embedded.dtype).removeprefix('torch.')}. Raise train.regularizers.r3f.eps (or freelb's "
                "strength), or set model.dtype to float32."
            )


def _around(regularizer: Regularizer, batch: MicroBatch, inner: LossAt) -> LossAt:
    """The loss with one regulariser's way of passing over the batch around it."""

    def loss_at(shift: Tensor | None) -> Tensor:
        return regularizer.loss(batch, lambda further: inner(_sum(shift, further)))

    return loss_at


def _sum(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    return right if left is None else left if right is None else left + right


class _Passes:
    """Passes over one micro-batch.

    Each after the first repeats its dropout and its noise, and the noise's counts stay those of one pass.
    """

    def __init__(
        self, objective: Objective, model: nn.Module, inputs: Mapping[str, Tensor], num_items: Tensor | int | None
    ) -> None:
        self.objective, self.trainer = objective, objective.trainer
        self.model, self.inputs, self.num_items = model, inputs, num_items
        table = objective.embedding(model).weight
        self.batch = MicroBatch(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            width=table.shape[-1],
            dtype=table.dtype,
            step=self.trainer.state.global_step,
            seed=objective.seed,
            backward=self.trainer.accelerator.backward,
        )
        self._states: list[Tensor] | None = None

    def plain_loss(self, shift: Tensor | None) -> Tensor:
        """The trainer's own loss."""
        with self._repeated(), self._shifted(shift):
            return self.objective.plain(self.model, dict(self.inputs), num_items_in_batch=self.num_items)

    def token_loss(self, shift: Tensor | None) -> Tensor:
        """Cross-entropy with penalties, from the whole distribution at every trained token."""
        log_probs, outputs = self._log_probs(shift)
        targets = self.inputs["labels"][:, 1:]
        tokens = TrainedTokens(
            log_probs,
            targets[targets != IGNORED],
            lambda further: self._log_probs(_sum(shift, further))[0],
            self.batch,
        )
        losses = -log_probs.gather(1, tokens.targets[:, None])[:, 0]
        for one in self.objective.regularizers:
            penalty = one.penalty(tokens)
            losses = losses if penalty is None else losses + penalty
        return self._scaled(losses, outputs)

    def _log_probs(self, shift: Tensor | None) -> tuple[Tensor, Any]:
        """Log-probabilities at the trained tokens, (N, V), and all that the model gave."""
        labels = self.inputs["labels"]
        given: dict[str, Any] = {name: value for name, value in self.inputs.items() if name != "labels"}
        # Without labels the noise would not know prompt from response, and with them the model takes a loss of its own.
        given.setdefault(RESPONSE_MASK, labels != IGNORED)
        if self.trainer.aux_loss_enabled:
            given["output_router_logits"] = True
        with self._repeated(), self._shifted(shift):
            outputs = self.model(**given, use_cache=False)
        return outputs.logits[:, :-1][labels[:, 1:] != IGNORED].float().log_softmax(-1), outputs

    def _scaled(self, losses: Tensor, outputs: Any) -> Tensor:
        """The share of the optimiser batch's loss, as TRL's SFTTrainer takes it, experts' balance included."""
        trainer, per_batch = self.trainer, self.num_items is not None
        loss = losses.sum() / (max(losses.numel(), 1) if self.num_items is None else self.num_items)
        if per_batch and trainer.args.average_tokens_across_devices:
            loss = loss * (trainer.accelerator.num_processes // trainer.get_tp_size())
        if trainer.aux_loss_enabled:
            steps = trainer.current_gradient_accumulation_steps if per_batch else 1
            loss = loss + trainer.router_aux_loss_coef * outputs.aux_loss / steps
        return loss

    @contextmanager
    def _repeated(self) -> Iterator[None]:
        if self._states is None:
            self._states = random_states()
            yield
            return
        set_random_states(self._states)
        with self.objective.noise.uncounted():
            yield

    @contextmanager
    def _shifted(self, shift: Tensor | None) -> Iterator[None]:
        """The tokens' embeddings, with the noise in them, get a shift (B, T, D)."""
        if shift is None:
            yield
            return
        hook = self.objective.embedding(self.model).register_forward_hook(self._adding(shift, added := []))
        try:
            yield
        finally:
            hook.remove()
        if not added:
            raise ConfigError(
                f"a shift of {list(shift.shape)} must reach the embeddings, {type(self.model).__name__} looked up none "
                "of that shape. Set train.regularizers.r3f and freelb to 0 for this model."
            )

    def _adding(self, shift: Tensor, added: list[bool]) -> Callable[..., Tensor | None]:
        def add(_module: nn.Module, _args: object, embedded: Tensor) -> Tensor | None:
            # Some models look up padding or token types in the same table after the text.
            if added or embedded.shape != shift.shape:
                return None
            added.append(True)
            shifted = embedded + shift
            self.objective.refuse_lost(embedded, shifted, shift)
            return shifted

        return add
