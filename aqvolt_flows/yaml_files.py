"""YAML that people write: read into plain values, or refused with one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from aqvolt_flows.errors import ConfigError

#: Integers above this fit no field; MongoDB stores none above 2⁶³ − 1.
LARGEST_INT = 2**63 - 1
_DEEPEST = 50
_SHOWN = 200


def read_mapping(path: Path, expected: str) -> dict[str, Any]:
    """Return what a YAML file holds; see :func:`parse_mapping`.

    Raises
    ------
    ConfigError
        If it cannot be read or is no UTF-8, too.
    """
    try:
        content = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); make it readable, or name another file."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: byte {error.start} is no UTF-8; save it as UTF-8 text.") from None
    return parse_mapping(content, str(path), expected)


def parse_mapping(content: str, source: str, expected: str) -> dict[str, Any]:
    """Return the mapping that a YAML text describes, with text as keys and finite numbers; empty text is an empty one.

    Parameters
    ----------
    content
        The text.
    source
        Names it in errors.
    expected
        What it should hold, for errors: ``'key: value' lines``.

    Raises
    ------
    ConfigError
        If it is not YAML, holds something else than a mapping, or a value that no parameter can be.
    """
    try:
        found = yaml.safe_load(content)
    except RecursionError:
        raise ConfigError(f"{source} is not YAML for us: it is nested too deep; expected {expected}.") from None
    # what PyYAML raises besides: ValueError for !!int x, TypeError for keys that are lists
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())[:_SHOWN]}.") from None
    values = {} if found is None else found
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source} holds a {type(values).__name__}; expected {expected}.")
    for place, wrong in _faults(values):
        raise ConfigError(f"{source}: {place or 'the top level'} {wrong}; expected {expected}.")
    return dict(values)


def _faults(values: Any) -> Iterator[tuple[str, str]]:
    """Yield where something stands that no parameter can be, and what it is."""
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    seen: set[int] = set()
    while waiting:
        place, value, depth = waiting.pop()
        if isinstance(value, Mapping | list):
            if id(value) in seen:  # an alias
                continue
            seen.add(id(value))
            if depth > _DEEPEST:
                yield place[:_SHOWN], "is nested too deep"
                return
        if isinstance(value, Mapping):
            for name, part in value.items():
                if not isinstance(name, str):
                    yield place, f"has the key {name!r}, which is no text"
                waiting.append((f"{place}.{name}".lstrip("."), part, depth + 1))
        elif isinstance(value, list):
            waiting.extend((f"{place}.{i}", part, depth + 1) for i, part in enumerate(value))
        elif wrong := _fault_of_value(value):
            yield place, wrong


def _fault_of_value(value: Any) -> str:
    if isinstance(value, str) and ("\0" in value or any(0xD800 <= ord(c) < 0xE000 for c in value)):
        return "holds a character that no text may hold"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, no finite number"
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        return "is a number beyond 64 bits"
    return ""
