"""How well one set of rows covers another in the same space, and the picture of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.engines import Engine, load_engine
from aqvolt_flows.sampling.direct.rows import Rows, ahead, coalesced
from aqvolt_flows.sampling.direct.space import Space
from aqvolt_flows.sampling.direct.state import SampledSpace, rows_of


@dataclass(frozen=True)
class Coverage:
    """How well a reference covers rows.

    Attributes
    ----------
    fraction
        Share of the rows within ``threshold`` of the reference.
    mean, p99, max
        Distance of a row to the nearest one of the reference, in the weighted space; with a beam an upper bound.
    n_rows, n_reference
        Sizes of both.
    threshold
        What counts as covered.
    """

    fraction: float
    mean: float
    p99: float
    max: float
    n_rows: int
    n_reference: int
    threshold: float


def gaps_summary(gaps: NDArray[np.floating]) -> dict[str, float]:
    """Return mean, 99th percentile and maximum of distances; zeros if there are none."""
    if not len(gaps):
        return {"mean": 0.0, "p99": 0.0, "max": 0.0}
    return {
        "mean": float(gaps.mean(dtype=np.float64)),
        "p99": float(np.quantile(gaps, 0.99)),
        "max": float(gaps.max()),
    }


def coverage(
    set_a: Rows | Iterable[Rows],
    set_b: Rows | Iterable[Rows] | SampledSpace,
    space: Space,
    threshold: float = 0.1,
    engine: Engine | None = None,
) -> Coverage:
    """Return how well ``set_b`` covers ``set_a`` in a space.

    Parameters
    ----------
    set_a
        Features (n, d), or shards of them; read once.
    set_b
        Features (m, d), or shards of them; or a :class:`SampledSpace`, whose centers and chosen rows are taken. Its
        rows in the space are held in memory.
    space
        Fitted on either set or on another.
    threshold
        A row of ``set_a`` within this distance of a row of ``set_b`` is covered.
    engine
        Default: the CPU's with a beam, whose distances are never below the true ones: what counts as covered is, and
        gaps are upper bounds. ``load_engine(search="exact")`` gives them exactly.

    Raises
    ------
    InputError
        If a set has no rows, other columns than the space, or values that are not finite.
    """
    if not threshold > 0 or not np.isfinite(threshold):
        raise InputError(f"The threshold is {threshold}; expected a positive length in weighted component units.")
    runner = engine or load_engine()
    if isinstance(set_b, SampledSpace):
        reference = set_b.reference
        if not len(reference):
            raise InputError("The sampled space has neither centers nor chosen rows; nothing can be covered by it.")
    else:
        reference = np.concatenate([runner.project(space, b) for b in rows_of(space, set_b, "set_b")])
    index = runner.index(reference)
    points = (runner.project(space, b) for b in rows_of(space, set_a, "set_a"))
    gaps = np.concatenate([index.query(b)[1] for b in ahead(coalesced(points, runner.rows_per_query))])
    return Coverage(
        fraction=float((gaps <= threshold).mean()),
        **gaps_summary(gaps),
        n_rows=len(gaps),
        n_reference=len(reference),
        threshold=threshold,
    )


@dataclass(frozen=True, eq=False)
class Picture:
    """Two components: the density of all rows, and a dot for each chosen one.

    Attributes
    ----------
    density
        (bins, bins), rows per cell; the first axis is the first component.
    x_edges, y_edges
        (bins + 1,).
    chosen
        (m, 2), at most as many as asked for.
    n_chosen
        How many were chosen in all.
    """

    density: NDArray[np.int64]
    x_edges: NDArray[np.float64]
    y_edges: NDArray[np.float64]
    chosen: NDArray[np.float32]
    n_chosen: int


def picture(
    components: Rows, chosen: NDArray[np.integer], bins: int = 256, most_dots: int = 50_000, seed: int = 0
) -> Picture:
    """Return the picture of a selection, small however many rows there are.

    Parameters
    ----------
    components
        (n, ≥ 2) or (n, 1), rows in the space, such as ``Selection.components``.
    chosen
        Rows that were chosen.
    bins
        Cells per axis.
    most_dots
        More chosen rows than this are thinned by a random draw.
    seed
        Of that draw.
    """
    flat = components if components.shape[1] > 1 else np.column_stack([components[:, 0], np.zeros(len(components))])
    density, x_edges, y_edges = np.histogram2d(flat[:, 0], flat[:, 1], bins=bins)
    dots = np.asarray(chosen, np.int64)
    if len(dots) > most_dots:
        dots = np.sort(np.random.default_rng(seed).choice(dots, most_dots, replace=False))
    return Picture(density.astype(np.int64), x_edges, y_edges, flat[dots, :2].astype(np.float32), len(chosen))
