"""Text inside HTML and scripts: data that cannot break out, and scripts that only run unchanged."""

import base64
import hashlib
import json
import re
from typing import Any

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f]")


def json_for_script(value: Any) -> str:
    """JSON that is safe inside a script element, whatever the strings hold; lone surrogates are kept as escapes.

    Raises:
        ValueError: A number is NaN or infinite; give None where a number is missing.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}", text)


def script_hash(source: str) -> str:
    """The Content-Security-Policy source that lets exactly this inline script run."""
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def plain(text: str) -> str:
    """Text with control characters, direction overrides and lone surrogates made visible."""
    text = _CONTROLS.sub(lambda match: chr(0x2400 + ord(match[0])) if match[0] != "\x7f" else "\u2421", text)
    text = _DIRECTIONS.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def plotly_text(text: str) -> str:
    """Text for a Plotly label, which would read markup in it."""
    return plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
