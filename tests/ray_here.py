"""Ray on this machine for tests: on the loopback interface alone, with a token of its own, wherever Ray came from."""

import os
import secrets
from typing import Any

import pytest


def ray_here() -> Any:
    """Ray, set up; skips where it is not installed. Some settings are read when Ray is imported, and set again here."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    ray = pytest.importorskip("ray", reason="needs neftune[ray]")
    from ray._private import ray_constants
    from ray._raylet import Config

    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")
    return ray
