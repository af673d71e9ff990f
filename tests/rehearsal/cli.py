"""Two rehearsals, one disturbed and one not, and the table that must add up."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_launch.embedded import server as embedded
from rehearsal.stage import Rehearsal, Result


def main() -> int:
    """Run both and return 0 if every promise held."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers and database end with this process
    folder = Path(options.folder or tempfile.mkdtemp(prefix="rehearsal-")).resolve()
    server = None
    uri = options.uri
    if not uri:
        folder.mkdir(parents=True, exist_ok=True)
        server = AqvoltSettings(root=folder)
        embedded.start(server)
        uri = server.database_uri().replace(f"/{server.database}?", "/?")  # each rehearsal has a database of its own
    try:
        disturbed, plain = (
            _rehearse(options, folder, uri, n, kills) for n, kills in (("disturbed", options.kills), ("undisturbed", 0))
        )
    finally:
        if server is not None:
            embedded.stop(server)
    problems = _problems(disturbed, plain)
    if options.json:
        print(json.dumps({"table": disturbed.table(), "problems": problems, **_numbers(disturbed, plain)}))
    else:
        _show(disturbed, plain, problems)
    return 1 if problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rehearsal", description="Label frames with the stand-in VASP through rlaunch, disturbed."
    )
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--failed", type=float, default=0.21, help="Share of the frames that is scripted to fail.")
    parser.add_argument("--workers", type=int, default=2, help="rlaunch processes at a time.")
    parser.add_argument("--kills", type=int, default=12, help="Workers that are killed with SIGKILL while at work.")
    parser.add_argument("--seed", type=int, default=26)
    parser.add_argument("--uri", help="A MongoDB; by default an embedded database in the folder.")
    parser.add_argument("--folder", help="Where to work; by default a new temporary folder.")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _rehearse(options: argparse.Namespace, folder: Path, uri: str, name: str, kills: int) -> Result:
    database = f"rehearsal_{name}_{uuid.uuid4().hex[:8]}"
    stage = Rehearsal(folder / name, uri, database, options.frames, options.failed, options.seed)
    started = time.monotonic()
    new = stage.submit()
    print(f"{name}: {new} submitted in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return stage.run(workers=options.workers, kills=kills)


def _problems(disturbed: Result, plain: Result) -> list[str]:
    found = [f"{frame}: {what}" for result in (disturbed, plain) for frame, what in result.unexpected().items()]
    found += [f"{frame}: not exactly one outcome" for result in (disturbed, plain) for frame in result.repeated]
    found += [f"{n} VASP processes were left over" for n in (disturbed.ghosts, plain.ghosts) if n]
    if disturbed.labels != plain.labels:
        found.append("the labels of the two rehearsals differ")
    total = sum(row["frames"] for row in disturbed.table())
    if total != len(disturbed.kinds) or sum(disturbed.statuses().values()) != total:
        found.append("the failure table does not add up")
    return found


def _numbers(disturbed: Result, plain: Result) -> dict[str, Any]:
    return {
        "outcomes": disturbed.statuses(),
        "labels": len(disturbed.labels),
        "kills": disturbed.kills,
        "recovered": disturbed.recovered,
        "fireworks": disturbed.fireworks,
        "seconds": {"disturbed": round(disturbed.seconds, 1), "undisturbed": round(plain.seconds, 1)},
        "median_launch_s": round(plain.seconds_per_launch(), 2),
        "cpus": os.cpu_count(),
    }


def _show(disturbed: Result, plain: Result, problems: list[str]) -> None:
    print(f"{'kind':28} {'status':12} {'reason':18} {'frames':>6} {'so ended':>8}")
    for row in disturbed.table():
        print(f"{row['kind']:28} {row['status']:12} {row['reason'] or '':18} {row['frames']:6d} {row['seen']:8d}")
    frames, seen = (sum(row[name] for row in disturbed.table()) for name in ("frames", "seen"))
    print(f"{'total':28} {'':12} {'':18} {frames:6d} {seen:8d}")
    for name, value in _numbers(disturbed, plain).items():
        print(f"{name}: {value}")
    print("\n".join(problems) or "one outcome a frame, as scripted; the labels are those of the undisturbed rehearsal")
