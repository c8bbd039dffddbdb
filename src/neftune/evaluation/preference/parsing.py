"""What a judge said -> a preference: 1 for the first answer shown, 2 for the second, 1.5 a tie, None unreadable."""

import math
import re
from collections.abc import Mapping

FIRST = ("model_1", "m")
"""What templates call the first model; AlpacaEval has used both names."""

_ENTRY = re.compile(r"\{[^{}]*\}")
_MODEL = re.compile(r"""['"]model['"]\s*:\s*['"](\w+)['"]""")
_RANK = re.compile(r"""['"]rank['"]\s*:\s*['"]?(\d+)['"]?\s*[,}]""")


def parse_ranking(text: str) -> float | None:
    """Preference from a list of {'model': NAME, 'rank': NUMBER}, in Python's or JSON's spelling, bare or amid prose.

    Two models must stand there, the first one by its name, with the ranks 1 and 2, or both with rank 1 for a tie.
    GPT-4's published verdicts are all read as AlpacaEval reads them, which looks at the rank of the first model alone.
    """
    ranks: dict[str, str] = {}
    for entry in _ENTRY.findall(text):
        model, rank = _MODEL.search(entry), _RANK.search(entry)
        if model is None or rank is None or model[1] in ranks:
            return None
        ranks[model[1]] = rank[1]
    first = next((name for name in FIRST if name in ranks), None)
    if first is None or len(ranks) != 2:
        return None
    second = next(name for name in ranks if name != first)
    return {("1", "2"): 1.0, ("2", "1"): 2.0, ("1", "1"): 1.5}.get((ranks[first], ranks[second]))


def parse_first_token(logprobs: Mapping[str, float] | None) -> float | None:
    """Preference 1 + P(M) / (P(m) + P(M)) from the log-probabilities of the first token.

    A token that is not among the likeliest ones has probability 0; None where neither is. Where neither stands there
    bare, spellings with a space before it are taken, as some tokenizers give them.

    Source: tatsu-lab/alpaca_eval, completion_parsers.py, logprob_parser.
    """
    if logprobs is None:
        return None
    bare = {token: logprobs[token] for token in ("m", "M") if token in logprobs}
    if not bare:
        for token, logprob in logprobs.items():
            name = token.strip(" \u2581\u0120\n")
            if name in ("m", "M"):
                bare[name] = max(logprob, bare.get(name, -math.inf))
    if not bare:
        return None
    first, second = (bare.get(name, -math.inf) for name in ("m", "M"))
    highest = max(first, second)
    if highest == -math.inf:
        return None
    odds = [math.exp(value - highest) for value in (first, second)]
    return 1 + odds[1] / sum(odds)
