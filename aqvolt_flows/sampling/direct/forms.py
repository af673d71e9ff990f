"""Features in the forms that people have them in: arrays, nested lists, DataFrames, tensors, shards of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError

Rows = NDArray[np.floating]

_FEATURES = (
    "expected numbers of shape (rows, columns): a numpy array, nested lists, a DataFrame or a tensor, or an iterable "
    "of such shards"
)


def as_features(features: Any, what: str) -> Rows | Iterable[Rows]:
    """Return features as an array, or as an iterable of arrays that can be read as often as what was given.

    Parameters
    ----------
    features
        (n, d) numbers: numpy array, nested lists, pandas DataFrame, torch tensor; or an iterable of such.
    what
        What the message calls them.

    Raises
    ------
    InputError
        If it is something else: text, a number, a mapping, an object.
    """
    if isinstance(features, np.ndarray):
        return features
    array = _converted(features, what)
    if array is not None:
        return array
    if features is None or isinstance(features, str | bytes | PurePath | Mapping) or not isinstance(features, Iterable):
        raise InputError(f"{what} is a {type(features).__name__}; {_FEATURES}.")
    if isinstance(features, list | tuple) and not (features and _is_matrix(features[0])):
        return _nested(features, what)
    return features if iter(features) is features else _Converted(features, what)


@dataclass(frozen=True, eq=False)
class _Converted:
    """Shards that are converted as they are read, every time."""

    source: Iterable[Any]
    what: str

    def __iter__(self) -> Iterator[Rows]:
        return (as_array(shard, self.what) for shard in self.source)


def as_array(rows: Any, what: str) -> NDArray:
    """Return rows as a numpy array; raises as :func:`as_features`."""
    if isinstance(rows, np.ndarray):
        return rows
    array = _converted(rows, what)
    if array is not None:
        return array
    if isinstance(rows, list | tuple):
        return _nested(rows, what)
    raise InputError(f"{what} holds a {type(rows).__name__}; {_FEATURES}.")


def _converted(rows: Any, what: str) -> NDArray | None:
    """Return a torch tensor, DataFrame or Series as an array; None for anything else."""
    if hasattr(rows, "detach") and hasattr(rows, "cpu"):
        tensor = rows.detach().cpu()
        # numpy has no bfloat16
        return np.asarray((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())
    if hasattr(rows, "to_numpy") and not hasattr(rows, "columns"):
        return np.asarray(rows)
    if hasattr(rows, "to_numpy"):
        kinds = {str(name): str(kind) for name, kind in zip(rows.columns, rows.dtypes, strict=True)}
        texts = [name for name, kind in zip(kinds, rows.dtypes, strict=True) if getattr(kind, "kind", "O") not in "fiu"]
        if texts:
            raise InputError(f"{what} has the column {texts[0]!r} of {kinds[texts[0]]}; expected numbers: drop it.")
        return np.asarray(rows.to_numpy())
    return None


def _nested(rows: Any, what: str) -> NDArray:
    """Return nested lists as an array."""
    if not len(rows):
        raise InputError(f"{what} has no rows; there is nothing to select from.")
    try:
        return np.asarray([as_array(r, what) if _is_vector(r) else r for r in rows])
    except ValueError:
        raise InputError(f"{what} has rows of different lengths; {_FEATURES}.") from None


def _is_vector(row: Any) -> bool:
    return not isinstance(row, list | tuple) and getattr(row, "ndim", 0) == 1 and not hasattr(row, "index")


def _is_matrix(shard: Any) -> bool:
    """Return whether the first entry of a list is a shard rather than a row."""
    if isinstance(shard, list | tuple):
        return bool(shard) and (isinstance(shard[0], list | tuple) or getattr(shard[0], "ndim", 0) == 1)
    return getattr(shard, "ndim", 0) == 2
