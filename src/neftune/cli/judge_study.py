"""`neftune judge --study NAME`: every run of a study against the baseline of its seed, and the report anew."""

import argparse
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neftune.evaluation.outputs import Outputs
    from neftune.evaluation.preference.judging import Judged
    from neftune.evaluation.preference.pairing import Pair
    from neftune.study.judged import Comparison


@dataclass(frozen=True)
class _Contest:
    """A comparison with its pairs, which stand together among all pairs that are judged."""

    comparison: "Comparison"
    pairs: "tuple[Pair, ...]"


def judge_study(options: argparse.Namespace) -> int:
    """Ask about every comparison of the study in one go, keep the preferences with it, write its report."""
    from neftune.cli.judge import annotator_name, ask, exit_code
    from neftune.cli.study import write_study_report
    from neftune.errors import ConfigError
    from neftune.evaluation.preference.pairing import pair_outputs
    from neftune.study.judged import FILE, comparisons, judged_data, merged, with_judged
    from neftune.study.store import Store, write_json
    from neftune.study.variants import with_variants

    given = {
        "A": options.baseline,
        "--names": options.names,
        "--annotations": options.annotations,
        "--json": options.json,
    }
    unwanted = [name for name, value in given.items() if value]
    if unwanted:
        raise ConfigError(f"--study takes the place of A and B, got {' and '.join(unwanted)} with it. Leave it out.")
    store = Store(options.out)
    result = store.read_study(options.study)
    contests = [
        _Contest(one, pair_outputs(one.baseline_outputs, one.outputs, seed=options.seed)[: options.limit])
        for one in comparisons(with_variants(result), [options.part])
    ]
    pairs = tuple(pair for contest in contests for pair in contest.pairs)
    sides: list[Outputs] = [contest.comparison.outputs for contest in contests]
    print(f"{len(contests)} runs of {options.study} against their baselines", file=sys.stderr)  # noqa: T201
    asked = ask(options, pairs, sides)
    if asked is None:
        return 0
    judging, judged, _ = asked
    annotator = annotator_name(options, judging)
    folder = store.study_folder(options.study)
    code = exit_code(judged, is_nothing_read=all(one.preference is None for one in judged.verdicts))
    if code == 0:
        preferences = merged(with_judged(result, folder), annotator, _preferences(contests, judged))
        write_json(folder / FILE, judged_data(annotator, preferences))
        _write_annotations(contests, judged, annotator, folder / "judged")
        write_study_report(store, options.study, result)
    return code


def _preferences(contests: list[_Contest], judged: "Judged") -> dict[tuple[str, str], dict[str, float]]:
    """Preferences by part and run id, then by example id."""
    verdicts = iter(judged.verdicts)
    return {
        (contest.comparison.part, contest.comparison.run.run_id): {
            str(pair.baseline.id): math.nan if (value := next(verdicts).preference) is None else value
            for pair in contest.pairs
        }
        for contest in contests
    }


def _write_annotations(contests: list[_Contest], judged: "Judged", annotator: str, folder: Any) -> None:
    """One file per comparison in AlpacaEval's format."""
    import re

    from neftune.evaluation.preference.pairing import annotation
    from neftune.study.store import write_json

    verdicts = iter(judged.verdicts)
    for contest in contests:
        names = contest.comparison.baseline.arm, contest.comparison.run.arm
        rows = [annotation(pair, names, annotator, next(verdicts).fields(), "id") for pair in contest.pairs]
        name = re.sub(r"[^A-Za-z0-9._=-]+", "_", contest.comparison.name)
        write_json(folder / f"{name}.json", rows)
