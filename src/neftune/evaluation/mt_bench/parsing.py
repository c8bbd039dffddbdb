"""The score in a judge's words."""

import re

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BARE = re.compile(r"\[(\d+\.?\d*)\]")


def parse_score(verdict: str) -> float | None:
    """The first number in double brackets, else the first in single ones; None where there is neither.

    Source: lm-sys/FastChat, fastchat/llm_judge/common.py, one_score_pattern and its backup.
    """
    found = _RATING.search(verdict) or _BARE.search(verdict)
    return float(found.group(1)) if found else None
