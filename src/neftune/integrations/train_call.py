"""The running ``train()`` of transformers' Trainer, which its callbacks are not told of."""

import sys
import threading
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from neftune.errors import ConfigError, NoiseError
from neftune.noise.ranks import Ranks


class TrainCall:
    """The ``train()`` call that is beginning now, as the stack of Python frames shows it."""

    def __init__(self) -> None:
        self._frame: FrameType | None
        self._trainer: Any
        self._frame, self._trainer = _trainer_frame()
        self._thread = threading.get_ident()

    def is_running(self) -> bool:
        """Whether the asking forward pass happens inside this training."""
        if self._frame is None or threading.get_ident() != self._thread:
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame is self._frame:
                return True
            frame = frame.f_back
        return False

    def ranks(self) -> Ranks:
        """How the trainer's ranks share rows.

        Raises:
            NoiseError: In a way in which they cannot be told.
        """
        accelerator: Any = getattr(self._trainer, "accelerator", None)
        config: Any = getattr(accelerator, "parallelism_config", None)
        if config is not None and config.sp_enabled:
            raise NoiseError(
                "the callback must know which ranks share each row, and DeepSpeed's sequence parallelism "
                f"(sp_size={config.sp_size}) does not tell it. Use neftune.attach(model, sequence_group=..., "
                'sequence_shards="contiguous") instead of the callback.'
            )
        if config is not None and config.cp_enabled:
            return Ranks(accelerator.torch_device_mesh["cp"].get_group(), "zigzag")
        return Ranks()

    def num_replicas(self) -> int:
        """How many ranks noise the very same tokens: those of one tensor-parallel group."""
        return self._trainer.get_tp_size() if hasattr(self._trainer, "get_tp_size") else 1

    def put_first(self, callback: TrainerCallback) -> None:
        """Let a callback hear of logs before the trackers do, which otherwise come first."""
        callbacks = self._callbacks()
        if callback in callbacks:
            callbacks.remove(callback)
            callbacks.insert(0, callback)

    def refuse_second(self, kind: type[TrainerCallback]) -> None:
        """Refuse a trainer that has two callbacks for the noise, or one of them twice.

        Raises:
            ConfigError: It has more than one of this kind.
        """
        number = sum(isinstance(callback, kind) for callback in self._callbacks())
        if number > 1:
            raise ConfigError(
                f"training takes one noise at a time, the trainer has {number} {kind.__name__}s. Keep one of them."
            )

    def _callbacks(self) -> list[TrainerCallback]:
        return getattr(getattr(self._trainer, "callback_handler", None), "callbacks", [])


def _trainer_frame() -> tuple[FrameType | None, object]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if hasattr(owner, "callback_handler"):
            return frame, owner
        frame = frame.f_back
    return None, None
