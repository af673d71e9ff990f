"""Many seeds, one after the other, and the table that stands in docs/reliability.md."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults.jobs import expected
from faults.scene import KINDS, Scene, hash_of, strikes


def main() -> None:
    """Run seeds until all are done or the time is over, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no seed after so long")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--rlaunches", type=int, default=2)
    parser.add_argument("--per-stage", type=int, default=3)
    given = parser.parse_args()
    total: Counter[str] = Counter()
    right, done, started = 0, 0, time.monotonic()
    reference = hash_of(expected(given.per_stage))
    for seed in range(given.first, given.first + given.seeds):
        if time.monotonic() - started > 60 * given.minutes:
            break
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        scene = Scene(folder, seed, given.per_stage, given.workers, given.rlaunches)
        found = scene.run(strikes(seed, 2 * len(KINDS)), deadline_s=600)
        wrong = found.wrong(given.per_stage)
        same = not wrong and found.content_hash() == reference
        total.update(found.struck)
        right, done = right + same, done + 1
        units = len(expected(given.per_stage))
        print(
            f"seed {seed}: {'same' if same else f'WRONG {wrong} {found.fireworks} in {folder}'}, "
            f"{sum(found.struck.values())} strikes, {found.runs} runs of {units} units, {found.seconds:.0f} s",
            flush=True,
        )
    print(f"\n{right} of {done} seeds ended with one outcome a unit and the undisturbed content hash\n")
    print("| strike | times |\n| --- | --- |")
    for kind in KINDS:
        print(f"| {kind} | {total[kind]} |")
