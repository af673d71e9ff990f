"""``aqvolt demo``: the whole chain in miniature on real parts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere

if TYPE_CHECKING:
    from aqvolt_launch.demo import DemoResult

Watch = Callable[[str, int, int, str], None]
#: Without a terminal a line tells at least this often that the demo is at work.
_TELL_S = 10.0


@anywhere
def demo(
    workdir: Annotated[
        Path | None,
        typer.Option(
            "--workdir",
            help="Where everything goes; default: aqvolt-demo, with --loop aqvolt-demo-loop.",
            show_default=False,
        ),
    ] = None,
    campaign: Annotated[
        str | None,
        typer.Option(
            "--campaign",
            help="Campaign file or shipped name; default: demo, with --loop demo-loop.",
            show_default=False,
        ),
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Run the closed loop instead: two rounds with the shipped campaign.")
    ] = False,
    labeler: Annotated[str, typer.Option("--labeler", help="surrogate, vasp (needs VASP_CMD) or gpaw.")] = "surrogate",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end and nothing else.")] = False,
) -> None:
    """Run the whole chain in miniature: candidates, ML-MD, 2DIRECT, labels, release, training, benchmarks, report.

    A second run in the same folder recomputes nothing; one that was killed continues.
    """
    from aqvolt_flows.labeling.labelers import check_labeler
    from aqvolt_flows.potentials import check_model
    from aqvolt_flows.sampling.encoders.registry import encoder_hash
    from aqvolt_flows.settings import CONFIG_NAME, load_settings
    from aqvolt_launch import demo as engine
    from aqvolt_launch.chain import campaign_for
    from aqvolt_launch.project.folder import init_project

    workdir = workdir or Path("aqvolt-demo-loop" if loop else "aqvolt-demo")
    campaign = campaign or ("demo-loop" if loop else "demo")
    existing = workdir / CONFIG_NAME
    # Without a file yet: only the environment counts, not an aqvolt.yaml of a folder further up.
    settings = (
        load_settings(existing)
        if existing.is_file()
        else load_settings(Path(os.devnull), root=workdir, campaign=campaign)
    )
    chosen = campaign_for(settings, campaign, labeler)
    check_model(chosen.exploration.potential)
    encoder_hash(chosen.sampling.encoder)
    check_labeler(chosen.labeling)
    if settings.mongo_uri:
        from aqvolt_flows.stores import Database

        Database.connect(settings)
    folder = engine.check_workdir(workdir)
    init_project(folder, campaign=campaign)
    settings = load_settings(folder / CONFIG_NAME)
    with _progress(quiet=as_json) as watch:
        result = (engine.run_loop if loop else engine.run)(settings, chosen, watch)
    if as_json:
        output.emit(result.as_dict())
    else:
        _conclude(result, folder, embedded=settings.mongo_uri is None, labels=chosen.labeling.labeler)
    if any("fizzled" in s.note for s in result.stages):
        raise typer.Exit(1)


@contextmanager
def _progress(quiet: bool) -> Iterator[Watch]:
    """Yield a callback that draws bars on a terminal, or prints a line when a stage ends."""
    if quiet:
        yield lambda *_: None
        return
    if not sys.stdout.isatty():
        yield _plain_watch()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = [
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    ]
    with Progress(*columns, transient=False) as progress:
        tasks: dict[str, int] = {}

        def watch(stage: str, done: int, total: int, detail: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=None, detail="")
            progress.update(tasks[stage], completed=done, total=total or None, detail=detail)  # type: ignore[arg-type]

        yield watch


def _plain_watch(clock: Callable[[], float] = time.monotonic) -> Watch:
    """Return a callback that prints a line when a stage ends, and one every ten seconds while it runs."""
    started: dict[str, float] = {}
    told = clock()

    def watch(stage: str, done: int, total: int, detail: str) -> None:
        nonlocal told
        now = clock()
        begun = started.setdefault(stage, now)
        if "finished" not in detail and now - told < _TELL_S:
            return
        told = now
        output.say(f"{stage:<12} {done}/{total} {detail or 'running'} ({now - begun:.0f} s)")
        sys.stdout.flush()

    return watch


def _conclude(result: DemoResult, folder: Path, embedded: bool, labels: str) -> None:
    rows = [
        {"stage": s.stage, "documents": s.documents, "failures": s.failures, "seconds": s.seconds, "": s.note}
        for s in result.stages
    ]
    output.table(rows, title="Stages")
    if result.rounds is not None:
        output.table(result.rounds, title="Rounds")
    output.say(f"Release  {result.release_id}\n         {result.release_path}")
    output.say(f"Report   {result.report_path}")
    output.say(
        f"Total    {result.seconds:.0f} s, peak memory {result.peak_memory_gb:.1f} GB (worker, database and this "
        "process)"
    )
    if labels == "surrogate":
        output.say("Labels   come from a surrogate potential, not from DFT; the release and the report say so.")
    if not result.recomputed:
        output.say(
            f"Nothing was recomputed: every stage was already finished; content hash {result.content_hash} is "
            "unchanged."
        )
    start = "aqvolt db start && " if embedded else ""
    output.say(f"Look around: cd {folder} && {start}aqvolt query labels --limit 5")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: aqvolt demo --workdir /tmp/demo")(demo)
