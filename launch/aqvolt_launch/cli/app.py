"""The root of the command line and the one place where errors become sentences."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aqvolt_flows import __version__
from aqvolt_flows.errors import SYMPTOMS, AqvoltError
from aqvolt_launch import logs
from aqvolt_launch.cli import output


class _Commands(TyperGroup):
    """The commands; one that a bad document stops sets such documents aside and runs again."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the line."""
        given = list(ctx.args), list(ctx._protected_args)
        try:
            try:
                return super().invoke(ctx)
            except SYMPTOMS:
                if not _set_aside():
                    raise
            ctx.args, ctx._protected_args = given
            return super().invoke(ctx)
        except Exception as error:
            if not type(error).__module__.startswith("pymongo."):  # which is not imported for --help
                raise
            raise _database_error(error) from error
        except KeyboardInterrupt:  # before typer makes "Aborted" of it
            output.complain("Interrupted; what was finished is kept, and the same command continues from there.")
            raise SystemExit(130) from None


def _database_error(error: Any) -> AqvoltError:
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import failed

    return failed(error, load_settings())


def _terminated(_signal: int, _frame: Any) -> None:
    """End as after an interrupt, so that workers and databases that the command started end with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    output.complain("Terminated; what was finished is kept, and the same command continues from there.")
    sys.exit(143)


def _set_aside() -> bool:
    """Move documents that fit no schema to the quarantine, say so, and return whether there were any."""
    from pymongo.errors import PyMongoError

    from aqvolt_flows.quarantine import sweep
    from aqvolt_flows.settings import load_settings
    from aqvolt_flows.stores import Database

    try:
        moved = sweep(Database.connect(load_settings()))
    except (AqvoltError, PyMongoError):
        return False  # the first error says more
    for entry in moved:
        output.note(f"{entry['collection']} {entry['what']} is set aside: {entry['reason']}")
    return bool(moved)


app = typer.Typer(
    name="aqvolt",
    cls=_Commands,
    help="Workflows that make machine-learning datasets and potentials for solid electrolytes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


#: Packages whose version decides what comes out, in the order in which they are printed; absent ones are left out.
_PACKAGES = (
    "pymatgen", "ase", "numpy", "scikit-learn", "jobflow", "fireworks", "maggma", "atomate2", "custodian",
    "torch", "torch-sim-atomistic", "sevenn", "chgnet", "matgl", "fairchem-core", "gpaw",
    "SecantusDB", "duckdb", "huggingface-hub",
)  # fmt: skip


def _version(value: bool) -> None:
    if value:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        output.say(f"aqvolt-flows {__version__}")
        output.say(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
        for name in _PACKAGES:
            try:
                output.say(f"{name} {version(name)}")
            except PackageNotFoundError:
                continue
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001 - its callback prints
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the versions of what matters and exit."
        ),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level",
            help="Log lines on standard error from here on: debug, info, warning, error. Default: AQVOLT_LOG_LEVEL, or "
            "warning.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Workflows that make machine-learning datasets and potentials for solid electrolytes."""
    logs.configure(log_level)


def main() -> None:
    """Run the command line; a user's mistake prints one sentence on stderr and exits with code 2."""
    from aqvolt_launch.cli import commands

    commands.register(app)
    if "work" not in sys.argv[1:]:  # a worker's job must not take it for its own failure; see aqvolt_launch.workers
        signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except AqvoltError as error:
        output.complain(str(error))
        sys.exit(2)
