"""Answers of one model to the prompts of a file: by a checkpoint on this machine, or by a server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neftune.errors import DataError, EndpointError
from neftune.evaluation.answer_file import PartAnswer
from neftune.evaluation.outputs import Output
from neftune.evaluation.variants import Variant
from neftune.records import Example, Turn, content_hash

OnAnswer = Callable[[PartAnswer], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on this machine.

    Attributes:
        path: As `ModelConfig.path`.
        adapter: A folder with a PEFT adapter; None has none.
        dtype: Of the weights, "float32" or "bfloat16".
        template: How prompts are written, see `neftune.data.prompts`.
    """

    path: str
    adapter: Path | None = None
    dtype: str = "float32"
    template: str = "auto"

    def settings(self) -> dict[str, Any]:
        """What decides the answers: paths, type, template, and which weights lie there now."""
        weights = [Path(self.path), *([self.adapter] if self.adapter else [])]
        return {
            "model": self.path,
            "adapter": str(self.adapter or ""),
            "dtype": self.dtype,
            "template": self.template,
            "weights": content_hash([_files(folder) for folder in weights]),
        }


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a model, whoever it is.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        repetition_penalty: 1.0 is off.
        variant: Another way to ask; None asks the prompt as it is.
    """

    max_new_tokens: int
    repetition_penalty: float = 1.0
    variant: Variant | None = None

    @property
    def min_new_tokens(self) -> int:
        """Tokens before an answer may end."""
        return self.variant.min_new_tokens if self.variant else 0

    def settings(self) -> dict[str, Any]:
        """What decides the answers, as plain data."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "variant": self.variant.name if self.variant else "",
        }

    def example(self, prompt: Output) -> Example:
        """The prompt as this wish asks it."""
        if not prompt.prompt.strip():
            raise DataError(f"{prompt.where}: a prompt must say something, got an empty one. Remove the row.")
        example = Example.make([Turn("user", prompt.instruction), Turn("assistant", "")], input=prompt.input)
        return self.variant.ask(example) if self.variant else example


def ask_checkpoint(
    checkpoint: Checkpoint,
    prompts: Mapping[int, Output],
    wish: Wish,
    *,
    batch_size: int,
    cache_bytes: int,
    on_answer: OnAnswer,
) -> None:
    """Answers by a checkpoint, on its GPU where there is one; "" for a prompt that leaves no room for an answer.

    Args:
        checkpoint: The model.
        prompts: By place.
        wish: What is asked.
        batch_size: Most prompts answered together.
        cache_bytes: Memory for keys and values.
        on_answer: Called as each is done.

    Raises:
        DataError: A number is out of range, or a prompt is empty.
        ModelError: The model or its adapter cannot be used.
    """
    from neftune.data.prompts import render_prompt, resolve_template
    from neftune.evaluation.generation import Generated, GenerationSettings, generate_each, prompt_room

    model, tokenizer = _load(checkpoint)
    template = resolve_template(checkpoint.template, tokenizer)
    settings = GenerationSettings(
        wish.max_new_tokens,
        wish.repetition_penalty,
        wish.min_new_tokens,
        _ends(template, tokenizer),
        batch_size,
        cache_bytes,
    )
    texts = {
        place: render_prompt(wish.example(prompt), template=template, tokenizer=tokenizer)
        for place, prompt in prompts.items()
    }
    fitting: list[int] = []
    for place, text in texts.items():
        room = prompt_room(model, tokenizer, text)
        if room is not None and room < 1:
            on_answer(PartAnswer(place, "", 0, False, "prompt_too_long"))
        else:
            fitting.append(place)

    def take(index: int, made: Generated) -> None:
        on_answer(PartAnswer(fitting[index], made.text, made.num_tokens, made.ended))

    if fitting:
        generate_each(model, tokenizer, [texts[place] for place in fitting], settings, on_answer=take)


def ask_server(client: Any, model: str, prompts: Mapping[int, Output], wish: Wish, on_answer: OnAnswer) -> None:
    """Answers by an OpenAI-compatible server, greedy, in the server's own chat template.

    A repetition penalty and a least length go as `repetition_penalty` and `min_tokens`, as vLLM calls them; only where
    they are asked for.

    Args:
        client: A `ChatClient`.
        model: The model's name, as the server knows it.
        prompts: By place.
        wish: What is asked.
        on_answer: Called as each is done.

    Raises:
        EndpointError: The server cannot be used, or some prompts failed; what was answered was handed over.
    """
    from neftune.evaluation.preference.endpoint import ChatRequest, ChatSettings, Unanswered

    extra: dict[str, Any] = {}
    if wish.repetition_penalty != 1:
        extra["repetition_penalty"] = wish.repetition_penalty
    if wish.min_new_tokens:
        extra["min_tokens"] = wish.min_new_tokens
    settings = ChatSettings(model, max_tokens=wish.max_new_tokens, extra=extra)
    failed: list[str] = []

    def take(request: ChatRequest, result: Any) -> None:
        if not isinstance(result, Unanswered):
            ended = None if result.finish_reason is None else result.finish_reason == "stop"
            on_answer(PartAnswer(int(request.id), result.text.strip(), result.completion_tokens, ended))
        elif result.reason == "failed":
            failed.append(result.said)
        else:
            on_answer(PartAnswer(int(request.id), "", unanswered=result.reason))

    client.complete_many(
        (ChatRequest(str(place), _turns(wish.example(prompt)), settings) for place, prompt in prompts.items()), take
    )
    if failed:
        raise EndpointError(
            f"every prompt must be answered, got {len(failed)} without an answer (the first: {failed[0]}). "
            "What was answered is kept; the same command asks for the rest."
        )


def _turns(example: Example) -> tuple[Turn, ...]:
    question = example.turns[-2].content
    return (Turn("user", f"{question}\n\n{example.input}" if example.input else question),)


def _load(checkpoint: Checkpoint) -> tuple[Any, Any]:
    import torch

    from neftune.config import DataConfig, ModelConfig
    from neftune.training.models import load_model, with_adapters

    config = ModelConfig.model_validate({"path": checkpoint.path, "dtype": checkpoint.dtype})
    loaded = load_model(config, DataConfig(max_length=8), seed=0)
    if checkpoint.adapter is not None:
        loaded = with_adapters(loaded, checkpoint.adapter)
    model: Any = loaded.model
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), loaded.tokenizer


def _ends(template: str, tokenizer: Any) -> tuple[int, ...]:
    """What a response ends with under the template: some end a turn with another token than EOS."""
    from neftune.data.batches import tokenise
    from neftune.evaluation.generation import response_ends

    example = Example.make([Turn("user", "Hi"), Turn("assistant", "Hello")])
    return response_ends(tokenise([example], tokenizer, template=template, max_length=2**20).documents, tokenizer)


def _files(folder: Path) -> Sequence[Sequence[object]]:
    """Name, size and time of every file of a checkpoint: a new training under an old name is another model."""
    if not folder.is_dir():
        return []
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
