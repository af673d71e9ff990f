"""One line of a benchmark: model × benchmark × set, with denominators, one value, its interval, hashes and speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy.stats import norm


def summary_row(benchmark: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a document of ``benchmarks``; what an older document does not say is None.

    Parameters
    ----------
    benchmark
        Its benchmark: ``headline`` names the metric that stands for it.
    document
        As stored.
    """
    metrics = document["metrics"]
    shown = dict(metrics) | dict(metrics.get("overall") or {})
    name = getattr(benchmark, "headline", "")
    interval = getattr(benchmark, "headline_interval", "")
    seconds, steps = document.get("seconds"), document.get("atom_steps")
    return {
        "model": document["model"],
        "benchmark": document["benchmark"],
        "dataset": document["dataset"],
        "status": document["status"],
        "n_items": document["n_items"],
        "n_structures": document.get("n_structures") or document["n_items"],
        "coverage_percent": metrics.get("coverage_percent"),
        "n_not_covered": document.get("n_not_covered", 0),
        "n_refused": document.get("n_refused", 0),
        "n_failed": document["n_failed"],
        "failed_by_reason": metrics.get("failed_by_reason") or {},
        "value_name": name or None,
        "value": shown.get(name),
        "interval": shown.get(interval),
        "model_hash": document["model_hash"],
        "key": document["key"],
        "seconds": seconds,
        "atom_steps_per_s": round(steps / seconds, 1) if steps and seconds else None,
    }


def wilson_percent(failed: int, total: int, level: float = 0.95) -> list[float] | None:
    """Return Wilson's interval of a fraction, in percent (J. Am. Stat. Assoc. 22, 209 (1927)); None of nothing.

    It takes structures as independent, and does not shrink to a point where none or all have failed.
    """
    if total == 0:
        return None
    z = float(norm.ppf(0.5 + level / 2))
    p, n = failed / total, float(total)
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return [100.0 * max(0.0, center - half), 100.0 * min(1.0, center + half)]
