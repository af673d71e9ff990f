"""Submission and check-out of labels at size, beside stock FireWorks and the database's own inserts.

One run, one table. On an embedded database of its own, or on the MongoDB that ``--uri`` names (in a database of its own
that is dropped at the end):

- stock: ``make``, ``flow_to_workflow``, ``add_wf`` for each frame, at most ``--stock`` of them, on an empty LaunchPad;
- raw: ``insert_many`` of Firework and workflow documents equal to ours, in batches of ours, on an empty LaunchPad with
  the same indexes: what the database alone takes;
- ours: the planner's stream over a collection ``frames`` of n documents, submitted; then once more, all duplicates;
- check-out of one Firework with all n READY, and behind the window;
- workers: eight processes (``--workers``) on ``--statics`` stand-in statics, a job that notes its number in a file, so
  that none run twice or not at all can hide; beside plain ``rapidfire`` processes on the same work by stock
  submission. A stand-in VASP would add its own half second to both.

Stock, raw and ours are each a process of their own, for their peak memory.

Example: python tests/performance/labeling.py -n 20000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import batched
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAMES = (("LiCl", "Cl-Li", ["Cl", "Li"]), ("Li3YCl6", "Cl-Li-Y", ["Cl", "Li", "Y"]), ("LiF", "F-Li", ["F", "Li"]))


def start_server(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start an embedded database in a folder and return its process and URI."""
    import socket

    from pymongo import MongoClient

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    beside = Path(sys.executable).with_name("secantusd-py")
    executable = str(beside) if beside.is_file() else shutil.which("secantusd-py")
    if executable is None:
        sys.exit("secantusd-py is not installed; install the extra 'embedded' or give --uri.")
    command = [executable, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "db")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
    with MongoClient(uri, serverSelectionTimeoutMS=30_000) as client:
        client.admin.command("ping")
    return process, uri


def settings_for(uri: str, folder: str) -> Any:
    """Return settings with a database of its own, and let jobs and other processes find them."""
    from aqvolt_flows.settings import load_settings

    name = f"aqvolt_performance_{uuid.uuid4().hex[:8]}"
    values = {"mongo_uri": uri, "database": name, "campaign": "demo", "device": "cpu"}
    config = Path(folder) / f"{name}.yaml"
    config.write_text(json.dumps(values))
    os.environ["AQVOLT_CONFIG_FILE"] = str(config)
    return load_settings(config)


def fill_frames(settings: Any, n: int) -> None:
    """Write n documents of ``frames`` as sampling does, without their Parquet files."""
    from aqvolt_flows.stores import Database

    database = Database.connect(settings)
    database.ensure_indexes()
    for numbers in batched(range(n), 1000):
        documents = []
        for i in numbers:
            formula, chemsys, elements = NAMES[i % 3]
            documents.append(
                {"frame_id": f"frame-{i:024x}", "key": f"frame-key-{i}", "trajectory_id": f"traj-{i // 20}"}
                | {"formula": formula, "chemsys": chemsys, "elements": elements, "n_atoms": 20 * (1 + i % 8)}
                | {"surrogate_max_force": 0.01 * (i % 1999), "atom_clusters": list(range(i % 5)), "step": i}
                | {"artifact": {"sha256": "0" * 64, "format": "parquet", "bytes": 1}, "row": i % 400}
            )
        database["frames"].insert_many(documents, ordered=False)


def own_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Return what a function returns in a fresh process, with the process' peak memory in MB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_with_memory, (function, arguments))


def _with_memory(function: Callable[..., dict[str, float]], arguments: tuple[Any, ...]) -> dict[str, float]:
    found = function(*arguments)
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def campaign_and_launchpad(settings: Any) -> tuple[Any, Any]:
    """Return the demo's campaign (surrogate labels) and the LaunchPad, everything imported and connected."""
    from aqvolt_flows.campaign import load_campaign
    from aqvolt_launch.launchpad import ensure_launchpad
    from aqvolt_launch.submission.blueprint import workflow_of

    sys.path.insert(0, str(ROOT / "tests" / "launch"))
    import trivial_jobs

    from aqvolt_flows.stores import job_store

    workflow_of(trivial_jobs.add_item(0), job_store())  # imports are no part of any row
    return load_campaign("demo"), ensure_launchpad(settings)


def stock(uri: str, folder: str, n: int) -> dict[str, float]:
    """Submit n labels as jobflow and FireWorks document it."""
    from jobflow.managers.fireworks import flow_to_workflow

    from aqvolt_flows.labeling.labelers import labeler_maker
    from aqvolt_flows.stores import job_store

    campaign, launchpad = campaign_and_launchpad(settings_for(uri, folder))
    maker, store = labeler_maker(campaign.labeling), job_store()
    started = time.perf_counter()
    for i in range(n):
        launchpad.add_wf(flow_to_workflow(maker.make(f"frame-{i:024x}", f"{i:024x}"), store=store))
    seconds = time.perf_counter() - started
    launchpad.connection.drop_database(launchpad.db.name)
    return {"seconds": seconds, "n": n}


def raw(uri: str, folder: str, n: int) -> dict[str, float]:
    """Insert the documents that ours writes, and nothing else; making them is not counted."""
    from aqvolt_flows.labeling.plan import plan_label
    from aqvolt_flows.schemas.base import utc_now
    from aqvolt_flows.stores import Database, job_store
    from aqvolt_launch.submission.blueprint import Blueprint
    from aqvolt_launch.submission.submit import BULK_BATCH
    from aqvolt_launch.submission.window import waiting_place

    settings = settings_for(uri, folder)
    campaign, launchpad = campaign_and_launchpad(settings)
    fill_frames(settings, n)
    seconds, fw_id, blueprint = 0.0, 1, None
    for items in batched(plan_label(campaign, Database.connect(settings)).items, BULK_BATCH):
        blueprint = blueprint or Blueprint(items[0], job_store())
        places = [waiting_place(item.category, item.priority) for item in items]
        documents = [
            blueprint.documents(item, fw_id + i, utc_now(), "PAUSED", place)
            for i, (item, place) in enumerate(zip(items, places, strict=True))
        ]
        fw_id += len(items)
        fireworks, workflows = map(list, zip(*documents, strict=True))
        started = time.perf_counter()
        launchpad.fireworks.insert_many(fireworks, ordered=False)
        launchpad.workflows.insert_many(workflows, ordered=False)
        seconds += time.perf_counter() - started
    launchpad.connection.drop_database(launchpad.db.name)
    return {"seconds": seconds, "n": n}


def ours(uri: str, folder: str, n: int, window: int | None) -> dict[str, float]:
    """Plan and submit n labels twice; then time the check-out behind the window and with all READY."""
    from aqvolt_launch import chain
    from aqvolt_launch.submission.window import COLLECTION

    settings = settings_for(uri, folder)
    campaign, launchpad = campaign_and_launchpad(settings)
    fill_frames(settings, n)
    times = []
    for expected in ("submitted", "queued"):
        started = time.perf_counter()
        _, report = chain.submit_stage("label", campaign, settings, window=window)
        times.append(time.perf_counter() - started)
        assert report.as_dict()[expected] == n, report
    assert launchpad.db[COLLECTION].count_documents({"_id": {"$regex": "^batch:"}}) == 0
    found = {"seconds": times[0], "second_s": times[1], "n": n}
    found["ready"] = launchpad.fireworks.count_documents({"state": "READY"})
    found["window_ms"] = check_out(launchpad)
    _, _ = chain.submit_stage("label", campaign, settings, window=0)
    found["all_ready"] = launchpad.fireworks.count_documents({"state": "READY"})
    found["all_ready_ms"] = check_out(launchpad)
    launchpad.connection.drop_database(launchpad.db.name)
    return found


def check_out(launchpad: Any) -> float:
    """Return the median time (ms) in which FireWorks finds and reserves the next Firework, of five."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        assert launchpad._get_a_fw_to_run({}) is not None
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


RAPIDFIRE = """
import sys
from fireworks import FWorker
from fireworks.core.rocket_launcher import rapidfire
from aqvolt_flows.settings import load_settings
from aqvolt_launch.launchpad import get_launchpad
import os
os.chdir(sys.argv[1])
rapidfire(get_launchpad(load_settings()), FWorker(), nlaunches=0, strm_lvl="ERROR", local_redirect=True)
"""


def workers(uri: str, folder: str, statics: int, processes: int, plain: bool) -> dict[str, float]:
    """Run cheap jobs with several processes; return wall time and how often the jobs ran."""
    from jobflow.managers.fireworks import flow_to_workflow

    settings = settings_for(uri, folder)
    _, launchpad = campaign_and_launchpad(settings)
    import trivial_jobs

    from aqvolt_flows.stores import job_store
    from aqvolt_launch.submission.submit import submit

    trace = Path(folder) / f"trace-{plain}"
    launches = settings.path(settings.launch_dir) / f"plain-{plain}"
    launches.mkdir(parents=True)
    if plain:
        for i in range(statics):
            launchpad.add_wf(flow_to_workflow(trivial_jobs.mark(str(i), str(trace)), store=job_store()))
        command = [sys.executable, "-c", RAPIDFIRE, str(launches)]
    else:
        submit(trivial_jobs.bulk(statics, trace=str(trace)), settings)
        command = [sys.executable, "-m", "aqvolt_launch", "work", "--until-empty"]
    started = time.perf_counter()
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=launches) for _ in range(processes)]
    codes = [process.wait() for process in running]
    seconds = time.perf_counter() - started
    assert not any(codes), codes
    ran = trace.read_text().split()
    completed = launchpad.workflows.count_documents({"state": "COMPLETED"})
    launchpad.connection.drop_database(launchpad.db.name)
    return {"seconds": seconds, "ran": len(ran), "different": len(set(ran)), "completed": completed}


def rows(arguments: argparse.Namespace, uri: str, folder: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the table's rows: what, n, time, rate, remark."""
    n, few = arguments.n, min(arguments.n, arguments.stock)
    by_stock = own_process(stock, uri, folder, few)
    stock_rate = few / by_stock["seconds"]
    yield (
        "stock make + flow_to_workflow + add_wf",
        f"{few:,}",
        f"{by_stock['seconds']:.1f} s",
        f"{stock_rate:.0f}/s",
        "1.0 x stock",
    )
    by_raw = own_process(raw, uri, folder, n)
    raw_rate = n / by_raw["seconds"]
    remark = f"{raw_rate / stock_rate:.1f} x stock"
    yield "raw insert_many of the same documents", f"{n:,}", f"{by_raw['seconds']:.1f} s", f"{raw_rate:.0f}/s", remark
    by_us = own_process(ours, uri, folder, n, arguments.window)
    rate = n / by_us["seconds"]
    remark = f"{rate / stock_rate:.1f} x stock, {rate / raw_rate:.2f} x raw, peak {by_us['peak_mb']:.0f} MB"
    yield "ours: plan and submit", f"{n:,}", f"{by_us['seconds']:.1f} s", f"{rate:.0f}/s", remark
    part = by_us["second_s"] / by_us["seconds"]
    rate = n / by_us["second_s"]
    yield (
        "ours again, all duplicates",
        f"{n:,}",
        f"{by_us['second_s']:.2f} s",
        f"{rate:.0f}/s",
        f"{part:.3f} of the first",
    )
    yield "check-out behind the window", f"{by_us['ready']:,.0f} ready", f"{by_us['window_ms']:.0f} ms", "", ""
    ratio = by_us["all_ready_ms"] / by_us["window_ms"]
    yield (
        "check-out, all ready",
        f"{by_us['all_ready']:,.0f} ready",
        f"{by_us['all_ready_ms']:.0f} ms",
        "",
        f"{ratio:.1f} x",
    )
    if not arguments.statics:
        return
    base = None
    for plain, what in ((True, "plain rapidfire"), (False, "aqvolt work")):
        done = own_process(workers, uri, folder, arguments.statics, arguments.workers, plain)
        each = 1000 * done["seconds"] / arguments.statics
        base = base or each
        remark = f"{done['ran']:.0f} ran, {done['different']:.0f} different, {each / base:.2f} x plain"
        name = f"{arguments.workers} processes of {what}"
        yield name, f"{arguments.statics:,}", f"{done['seconds']:.1f} s", f"{each:.0f} ms each", remark
        assert done["ran"] == done["different"] == done["completed"] == arguments.statics, done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=20_000, help="frames to label (default 20000; the paper had 186,627)")
    parser.add_argument("--uri", help="MongoDB to measure; by default an embedded database of its own")
    parser.add_argument("--stock", type=int, default=2000, help="submit at most so many the stock way (default 2000)")
    parser.add_argument("--window", type=int, help="READY Fireworks at most; default: 200 on the embedded database")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--statics", type=int, default=400, help="stand-in statics for the workers; 0: leave them out")
    arguments = parser.parse_args()
    paths = [str(ROOT), str(ROOT / "builders"), str(ROOT / "launch"), str(ROOT / "tests" / "launch")]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("FW_CONFIG_FILE", f"{os.devnull}/FW_config.yaml")
    with tempfile.TemporaryDirectory() as folder:
        server, uri = (None, arguments.uri) if arguments.uri else start_server(Path(folder))
        try:
            print("| what | number | time | rate | |\n| --- | --- | --- | --- | --- |", flush=True)
            for row in rows(arguments, uri, folder):
                print("| " + " | ".join(row) + " |", flush=True)
        finally:
            if server is not None:
                server.terminate()
                server.wait()


if __name__ == "__main__":
    main()
