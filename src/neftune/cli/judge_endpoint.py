"""The options that say which server judges, and how it is called: the same for every verb that asks a judge."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neftune.evaluation.preference.endpoint import Endpoint


def add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    """Where the judge is, and how patiently it is asked."""
    parser.add_argument(
        "--base-url", default="", metavar="URL", help="the judge's server, up to /v1 (default: OpenAI's)"
    )
    parser.add_argument(
        "--key-variable",
        default="",
        metavar="NAME",
        help="environment variable with the key (default: OPENAI_API_KEY for OpenAI's server, no key for others)",
    )
    parser.add_argument("--concurrency", type=int, default=8, help="calls at a time (default: %(default)s)")
    parser.add_argument("--attempts", type=int, default=8, help="of one call (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for a reply (default: %(default)g)")


def endpoint_of(options: argparse.Namespace) -> "Endpoint":
    """The server that the options name.

    Raises:
        ConfigError: An option is out of range.
    """
    from neftune.evaluation.preference.endpoint import OPENAI_URL, Endpoint

    return Endpoint(
        base_url=options.base_url or OPENAI_URL,
        key_variable=options.key_variable,
        concurrency=options.concurrency,
        attempts=options.attempts,
        timeout=options.timeout,
    )
