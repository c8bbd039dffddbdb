"""Numbers as a reader wants them: sensible digits, one minus sign, intervals as 'x [lo, hi]'."""

import math

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"


def number(value: float | None, *, decimals: int | None = None) -> str:
    """A number with about three significant digits, or with the decimals asked for; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else MINUS + "∞"
    if decimals is None:
        decimals = decimals_for(value, most=3)
    if value and abs(value) < 1e-4 and decimals >= 4:
        return f"{value:.1e}".replace("-", MINUS)
    text = f"{value:,.{decimals}f}"
    if text.strip("-0.,") == "":  # a rounded-away negative is zero, not "-0.00"
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def decimals_for(value: float, *, most: int = 5) -> int:
    """Decimals that leave about three significant digits of ``value``, at most ``most`` for ordinary sizes."""
    if isinstance(value, int):
        return 0
    if not value or not math.isfinite(value):
        return 2
    wanted = max(0, 2 - math.floor(math.log10(abs(value))))
    return min(wanted, most if abs(value) >= 0.01 else 5)


def interval(estimate: float | None, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """``x [lo, hi]``, all three with the decimals that the largest of them needs.

    Args:
        estimate: The point estimate; None or NaN gives a dash.
        low: Lower end; None or NaN where there is no interval (one seed, one example).
        high: Upper end.
        signed: Whether positive numbers get a plus sign, as differences do.
    """
    if estimate is None or math.isnan(estimate):
        return MISSING
    ends = [end for end in (low, high) if end is not None and math.isfinite(end)]
    decimals = decimals_for(float(max(map(abs, (estimate, *ends)))), most=3)
    show = _signed if signed else number
    if len(ends) < 2:
        return f"{show(estimate, decimals=decimals)} [no interval]"
    shown = [show(end, decimals=decimals) for end in ends]
    return f"{show(estimate, decimals=decimals)} [{shown[0]}, {shown[1]}]"


def _signed(value: float, *, decimals: int | None = None) -> str:
    text = number(value, decimals=decimals)
    zero = text.strip("0.,") == ""
    return text if zero or value <= 0 else "+" + text


def signed(value: float | None, *, decimals: int | None = None) -> str:
    """A difference: a number with its sign, plus included."""
    if value is None or math.isnan(value):
        return MISSING
    return _signed(value, decimals=decimals)


def duration(seconds: float | None) -> str:
    """Seconds as "48 s", "3 min 20 s" or "2 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(num: int, noun: str, plural: str | None = None) -> str:
    """``3 seeds``, ``1 seed``: a count with its noun."""
    return f"{num:,} {noun if num == 1 else plural or noun + 's'}"


def ascii_only(text: str) -> str:
    """The text with typographic signs put into ASCII, for terminals of any encoding."""
    for sign, plain in ((MINUS, "-"), (MISSING, "-"), ("±", "+/-"), ("×", "x"), ("∞", "inf"), ("…", "...")):
        text = text.replace(sign, plain)
    return text
