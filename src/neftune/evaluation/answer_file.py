"""Answers on their way into a file: each is kept as it comes, a killed run goes on, other settings are refused.

While work is under way answers stand in FILE.part, a line each after a first line with the settings. FILE itself
appears whole, when the last answer is there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from neftune.errors import ConfigError, DataError, StoreError
from neftune.evaluation.outputs import Outputs

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """One answer as it is kept.

    Attributes:
        place: Of its prompt, from 0.
        text: The answer; "" where there is none.
        num_tokens: Tokens generated; None where a server did not say.
        ended: Whether the model stopped by itself; None where a server did not say.
        unanswered: Why there is no answer; "" where there is one.
    """

    place: int
    text: str
    num_tokens: int | None = None
    ended: bool | None = None
    unanswered: str = ""


class AnswerFile:
    """The answers to some prompts, in a file that may be half written.

    Args:
        path: Where the answers go: `.json` (a list) or `.jsonl`.
        num_prompts: Answers in all.
        settings: Everything that decides what is answered, as plain data.

    Raises:
        ConfigError: The path has another ending, is there already, or holds answers under other settings.
        StoreError: Another process writes it, or it cannot be written.
    """

    def __init__(self, path: Path, num_prompts: int, settings: Settings) -> None:
        import filelock

        self.path, self.num_prompts = path, num_prompts
        self.part = path.with_name(f"{path.name}.part")
        if path.suffix not in (".json", ".jsonl"):
            raise ConfigError(f"the file of answers must end in .json or .jsonl, got {path.name}. Rename it.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), blocking=False)
            self._lock.acquire()
        except filelock.Timeout as error:
            raise StoreError(f"{path} is being written by another process. Wait, or name another file.") from error
        except OSError as error:
            raise ConfigError(f"{path} must be a file that can be written: {error.strerror}.") from error
        try:
            self.answers = self._resume(json.loads(json.dumps(settings)))
            self._file: IO[str] = self.part.open("a", encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._lock.release()

    @property
    def missing(self) -> list[int]:
        """Places of the prompts that have no answer yet."""
        return [place for place in range(self.num_prompts) if place not in self.answers]

    def add(self, answer: PartAnswer) -> None:
        """Keep an answer; it survives the death of this process.

        Raises:
            StoreError: The disk is full.
        """
        try:
            self._file.write(json.dumps(asdict(answer)) + "\n")
            self._file.flush()
        except OSError as error:
            raise StoreError(f"{self.part} could not be written: {error.strerror}. Free some space.") from error
        self.answers[answer.place] = answer

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the whole file at once, and remove the part.

        Raises:
            StoreError: The disk is full.
        """
        if self.path.suffix == ".json":
            text = json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"
        else:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        new = self.path.with_name(f".{self.path.name}.new")
        try:
            # Lone surrogates, which models write and UTF-8 does not hold, become question marks.
            new.write_text(text, encoding="utf-8", errors="replace")
            new.replace(self.path)
        except OSError as error:
            raise StoreError(f"{self.path} could not be written: {error.strerror}. Free some space.") from error
        self._file.close()
        self.part.unlink()

    def _resume(self, settings: Settings) -> dict[int, PartAnswer]:
        """What the part holds, cut behind its last whole line; begins one where there is none."""
        whole = self.part.read_bytes().rpartition(b"\n")[0] if self.part.exists() else b""
        lines = whole.split(b"\n") if whole else []
        before: dict[str, Any] = {}
        kept: list[PartAnswer] = []
        if lines:
            try:
                before = dict(json.loads(lines[0]))
                kept = [PartAnswer(**json.loads(line)) for line in lines[1:]]
            except (ValueError, TypeError) as error:
                raise DataError(f"{self.part} must hold answers under way, got another file. Remove it.") from error
        if not kept:
            # Also where a command that could not be obeyed left its settings: they are no reason to refuse others.
            if self.path.exists():
                raise ConfigError(f"{self.path} is there already. Remove it, or name another file.")
            self.part.write_text(json.dumps(settings) + "\n", encoding="utf-8")
            return {}
        changed = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
        if changed:
            raise ConfigError(
                f"{self.part} holds {len(kept)} answers under other settings ({', '.join(changed)}). Use those "
                "settings again, name another file, or remove it to start anew."
            )
        self.part.write_bytes(whole + b"\n")
        return {answer.place: answer for answer in kept}


def output_rows(
    prompts: Outputs, answers: Mapping[int, PartAnswer], generator: str, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows in AlpacaEval's model_outputs format, in the order of the prompts.

    Args:
        prompts: What was asked; other fields of their rows are kept.
        answers: By place.
        generator: Who wrote them.
        texts: What stands as output, one per prompt.
    """
    rows: list[dict[str, Any]] = []
    for place, (prompt, text) in enumerate(zip(prompts.rows, texts, strict=True)):
        answer = answers[place]
        row = {**prompt.fields, "output": text, "generator": generator}
        extra = {"tokens": answer.num_tokens, "ended": answer.ended, "unanswered": answer.unanswered or None}
        rows.append(row | {name: value for name, value in extra.items() if value is not None})
    return rows
