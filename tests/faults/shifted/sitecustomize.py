"""Python imports this at its start where the folder is on PYTHONPATH: clocks go wrong by AQVOLT_TEST_CLOCK_S seconds.

Times of day only; what measures durations (``time.monotonic``) runs as ever, as on a machine with a wrong clock.
"""

from __future__ import annotations

import datetime as module
import os
import time
from typing import Any

_SHIFT = float(os.environ.get("AQVOLT_TEST_CLOCK_S") or 0.0)
_real, _real_time = module.datetime, time.time


class _Any(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _real)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, _real)


class Shifted(_real, metaclass=_Any):
    """A datetime whose now is wrong."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """Return the wrong time."""
        return _real.now(tz) + module.timedelta(seconds=_SHIFT)

    @classmethod
    def utcnow(cls) -> Any:
        """Return the wrong time, UTC without saying so."""
        return _real.now(module.UTC).replace(tzinfo=None) + module.timedelta(seconds=_SHIFT)


if _SHIFT:
    module.datetime = Shifted  # type: ignore[misc]
    time.time = lambda: _real_time() + _SHIFT
