"""What an audit found: numbers per stack, phase and document length, said as a table, as data and in one line."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from neftune.errors import NoiseError

Phase = Literal["training", "no_grad", "eval"]

PHASES: dict[Phase, str] = {
    "training": "training",
    "no_grad": "training mode without gradients",
    "eval": "eval mode",
}
NUM_GROUPS = 10
CLOSE = 0.01
"""How far from 1 a ratio may be and still be called exact, beyond what chance explains."""


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Documents of neighbouring lengths, a tenth of them all; ratios are realised alpha over nominal alpha.

    Attributes:
        num_documents: How many.
        shortest, longest: Their lengths L in tokens.
        num_tokens: Their real tokens.
        mean, least, most: Ratios over these documents.
    """

    num_documents: int
    shortest: int
    longest: int
    num_tokens: int
    mean: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One stack of the model in one phase; ratios are realised alpha over nominal alpha, NaN without documents.

    Attributes:
        stack: "only", "encoder" or "decoder".
        phase: Of the forward passes.
        num_forwards, num_measured: Passes seen, and passes whose noise was measured.
        num_documents, num_tokens, num_padding: Measured documents, real tokens and padding tokens.
        width: d.
        noised_share: Share of the real tokens that got any noise.
        mean, least, most: Ratios over documents.
        fifth_percentile: The ratio that 5% of the documents do not exceed.
        noise_rms, embedding_rms, padding_rms: RMS of the noise and of the clean embeddings on real tokens, and of the
            noise on padding.
        groups: Documents by length, shortest first.
        unreadable: Why passes could not be measured, and how many.
    """

    stack: str
    phase: Phase
    num_forwards: int
    num_measured: int
    num_documents: int
    num_tokens: int
    num_padding: int
    width: int
    noised_share: float
    mean: float
    least: float
    most: float
    fifth_percentile: float
    noise_rms: float
    embedding_rms: float
    padding_rms: float
    groups: tuple[LengthGroup, ...]
    unreadable: dict[str, int]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What a pipeline really applied.

    Attributes:
        alpha: The nominal alpha that everything is compared with.
        findings: By stack, then phase; only those that were seen.
    """

    alpha: float
    findings: tuple[Finding, ...]

    def find(self, phase: Phase = "training", stack: str | None = None) -> Finding:
        """The finding of one phase and stack (the first stack by default).

        Raises:
            NoiseError: There is none.
        """
        for finding in self.findings:
            if finding.phase == phase and stack in (None, finding.stack):
                return finding
        seen = ", ".join(f"{finding.stack}/{finding.phase}" for finding in self.findings)
        raise NoiseError(
            f"the audit must have seen {stack or 'a stack'} in phase {phase}, it saw {seen or 'nothing'}. "
            "Run that phase inside the audit."
        )

    @property
    def equivalent_alpha(self) -> float:
        """The alpha that gives exact noise the mean strength that these documents got here (their input stack)."""
        return self.alpha * self.find().mean

    @property
    def is_exact(self) -> bool:
        """Whether every length group got the nominal alpha, padding none, and passes that do not train none."""
        training = [finding for finding in self.findings if finding.phase == "training"]
        others = [finding for finding in self.findings if finding.phase != "training"]
        return (
            bool(training)
            and all(_is_exact(finding) for finding in training)
            and not any(_is_noised(finding) or finding.unreadable for finding in others)
        )

    @property
    def verdict(self) -> str:
        """One line."""
        if self.is_exact:
            others = [said for phase, said in PHASES.items() if phase in {f.phase for f in self.findings}][1:]
            clean = f"; none in {' or in '.join(others)}" if others else ""
            return f"exact: documents get 1.00 of alpha={self.alpha:g} at every length, padding none{clean}"
        return "; ".join(said for finding in self.findings for said in self._said(finding))

    def _said(self, finding: Finding) -> Iterator[str]:
        who = "documents" if finding.stack == "only" else f"the {finding.stack}'s documents"
        if finding.phase != "training":
            if _is_noised(finding):
                yield f"{who} are noised in {PHASES[finding.phase]}, at {finding.mean:.2f} of alpha"
        elif not finding.num_documents:
            yield f"{who} cannot be read" if finding.unreadable else f"{who} never reach an embedding"
        elif not finding.noise_rms and not finding.padding_rms:
            yield f"{who} get no noise at all (0.00 of alpha={self.alpha:g})"
        else:
            shortest = finding.groups[0].mean
            share = "the shortest tenth" if len(finding.groups) == NUM_GROUPS else "the shortest"
            yield f"{who} get {finding.mean:.2f} of alpha={self.alpha:g} on average, {share} {shortest:.2f}"
            if finding.padding_rms:
                yield "padding is noised"
            if finding.noised_share < 1:
                yield f"{finding.noised_share:.0%} of the real tokens get noise"
        for reason, count in finding.unreadable.items():
            yield f"{count} of {finding.num_forwards} passes are unreadable ({reason})"

    @property
    def translation(self) -> str:
        """What the nominal alpha of this pipeline means with exact noise; for whoever tuned it here."""
        return f"alpha={self.alpha:g} under this pipeline is about alpha={self.equivalent_alpha:.2g} with neftune"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data for JSON; NaN becomes None."""
        values = {**asdict(self), "equivalent_alpha": self.equivalent_alpha, "is_exact": self.is_exact}
        return _without_nan({**values, "verdict": self.verdict})

    def table(self) -> str:
        """Everything as plain text of at most 100 columns."""
        return "\n".join(line for finding in self.findings for line in _lines(finding, self.alpha))

    def __str__(self) -> str:
        return f"{self.table()}\n{self.verdict}"


def length_groups(lengths: Sequence[int], ratios: Sequence[float]) -> tuple[LengthGroup, ...]:
    """Documents sorted by length and cut into tenths of equal size; fewer where there are fewer documents."""
    pairs = sorted(zip(lengths, ratios, strict=True), key=lambda pair: pair[0])
    number = min(NUM_GROUPS, len(pairs))
    groups: list[LengthGroup] = []
    for i in range(number):
        part = pairs[i * len(pairs) // number : (i + 1) * len(pairs) // number]
        sizes, values = [length for length, _ in part], [ratio for _, ratio in part]
        mean = statistics.fmean(values)
        groups.append(LengthGroup(len(part), sizes[0], sizes[-1], sum(sizes), mean, min(values), max(values)))
    return tuple(groups)


def _is_noised(finding: Finding) -> bool:
    return bool(finding.noise_rms or finding.padding_rms)


def _is_exact(finding: Finding) -> bool:
    """Every group at 1, but for chance: one document's ratio varies by at most about 1 / sqrt(L d)."""
    if not finding.num_documents or finding.unreadable or finding.padding_rms or finding.noised_share < 1:
        return False
    return all(
        abs(group.mean - 1) <= CLOSE + 4 / math.sqrt(group.num_tokens * finding.width)  # 4 standard deviations
        for group in finding.groups
    )


def _lines(finding: Finding, alpha: float) -> Iterator[str]:
    stack = "" if finding.stack == "only" else f"{finding.stack}, "
    seen = f"{finding.num_forwards} forward passes, {finding.num_measured} measured"
    yield f"{stack}{PHASES[finding.phase]}: {seen}"
    if finding.num_documents and not _is_noised(finding):
        yield f"  no noise on {finding.num_documents} documents, none on {finding.num_padding} padding tokens"
    elif finding.num_documents:
        yield f"  {'documents':>9}  {'tokens':>11}  {'of alpha':>8}  {'least':>6}  {'most':>6}"
        for group in finding.groups if finding.phase == "training" else ():
            lengths = f"{group.shortest}-{group.longest}" if group.longest > group.shortest else f"{group.shortest}"
            yield _row(str(group.num_documents), lengths, (group.mean, group.least, group.most))
        yield f"{_row(str(finding.num_documents), 'all', (finding.mean, finding.least, finding.most))}  " + (
            f"5% of documents get at most {finding.fifth_percentile:.2f}"
        )
        ratio = finding.noise_rms / finding.embedding_rms if finding.embedding_rms else math.nan
        yield f"  realised alpha {alpha * finding.mean:.3g} of {alpha:g}; noise-to-embedding ratio {ratio:.3g}"
        padding = f"RMS {finding.padding_rms:.3g}" if finding.padding_rms else "exactly 0"
        yield f"  noise on {finding.num_padding} padding tokens: {padding if finding.num_padding else 'none there'}"
    for reason, count in finding.unreadable.items():
        yield f"  {count} passes unreadable: {reason}"


def _row(count: str, lengths: str, values: tuple[float, float, float]) -> str:
    return f"  {count:>9}  {lengths:>11}  {values[0]:8.3f}  {values[1]:6.2f}  {values[2]:6.2f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and math.isnan(value) else value
