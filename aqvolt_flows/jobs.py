"""The decorators of all makers' ``make``: one for work on structures, one for the jobs of a campaign.

:func:`science_job` is for anyone's script: arguments are checked when the job is made, the output is a typed document
in whatever JobStore runs the job, and a failure is a document of the same type. :func:`campaign_job` is for the jobs
that a campaign submits: they are given the connected database of the settings, and a failure that a user can cause
becomes what ``failed`` returns.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import AqvoltError, DatabaseError, InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

logger = logging.getLogger(__name__)


class _Later:
    """The type of :data:`LATER`."""


#: In a maker's check: the argument is the output of a job that has not run yet.
LATER: Any = _Later()


def science_job(
    schema: type[BaseModel] | None,
    check: Callable[..., None] | None = None,
    failed: Callable[..., Any] | None = None,
    stored: Callable[..., Any] | None = None,
    **job_options: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for ``make`` of a maker that works on structures.

    ASE Atoms among the arguments become pymatgen Structures when the job is made.

    Parameters
    ----------
    schema
        Type of the output; becomes the job's ``output_schema``. None for jobs that are replaced by others.
    check
        Called as ``make`` is, when the job is made and again when it runs, with what is not a reference to another
        job's output (a reference is left out of a list, and replaced by :data:`LATER` as an argument); raises
        :class:`~aqvolt_flows.errors.InputError`.
    failed
        Called with (maker, error, ``make``'s arguments) for an :class:`~aqvolt_flows.errors.AqvoltError` or
        ``MemoryError`` while the job runs; returns a document of the schema. Without it the error is raised.
    stored
        For jobs that version 0.1 stored under the same name with other arguments (identities of a campaign): called
        as ``make`` is; returns None for arguments that are not of that kind, else the function to run instead.
    **job_options
        Passed to ``jobflow.job``, e.g. ``data="frames"`` for an additional store.
    """
    from jobflow import job

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(maker: Any, *args: Any, **kwargs: Any) -> Any:
            earlier = stored(maker, *args, **kwargs) if stored is not None else None
            if earlier is not None:
                return earlier()
            try:
                if check is not None:
                    check(maker, *args, **kwargs)
                return method(maker, *args, **kwargs)
            except DatabaseError:
                raise
            except (AqvoltError, MemoryError) as error:
                if failed is None:
                    raise
                logger.warning("%s failed: %s", maker.name, error)
                return failed(maker, error, *args, **kwargs)

        make_job = job(run, output_schema=schema, **job_options)

        @functools.wraps(make_job)
        def make(maker: Any, *args: Any, **kwargs: Any) -> Any:
            if stored is not None and stored(maker, *args, **kwargs) is not None:
                earlier = make_job(maker, *args, **kwargs)
                earlier.output_schema = None
                return earlier
            if check is not None:
                check(maker, *(_known(a) for a in args), **{k: _known(v) for k, v in kwargs.items()})
            return make_job(maker, *(_sendable(a) for a in args), **{k: _sendable(v) for k, v in kwargs.items()})

        make.original = run  # type: ignore[attr-defined]  # what jobflow runs
        return make

    return decorate


def campaign_job(
    failed: Callable[..., Any] | None = None, catch: tuple[type[Exception], ...] = (AqvoltError,)
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for ``make`` of a campaign's maker: ``make(self, database, …)`` becomes the job ``make(…)``.

    Parameters
    ----------
    failed
        Called with (maker, database, error, ``make``'s arguments) when ``make`` raises one of ``catch``; writes the
        document that says so and returns the output. Without it errors are raised. A
        :class:`~aqvolt_flows.errors.DatabaseError` is always raised: there is nowhere to write to.
    catch
        Which errors become a document.
    """
    from jobflow import job

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(maker: Any, *args: Any, **kwargs: Any) -> Any:
            from aqvolt_flows.quarantine import guarded
            from aqvolt_flows.stores import Database

            database = Database.connect()
            try:
                return guarded(lambda: method(maker, database, *args, **kwargs), lambda: database)
            except DatabaseError:
                raise
            except catch as error:
                if failed is None:
                    raise
                logger.warning("%s failed: %s", maker.name, error)
                return failed(maker, database, error, *args, **kwargs)

        return job(run)

    return decorate


def typed(value: Any, kind: type[Any]) -> Any:
    """Return a maker's field as the pydantic type that it is declared as; a mapping, as stored jobs have it, is read.

    Raises
    ------
    InputError
        If a key or value is wrong: the field is named, with what was expected.
    """
    from pydantic import ValidationError

    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"{kind.__name__} was given as a {type(value).__name__}; expected {kind.__name__} or a dict.")
    try:
        return kind(**{k: v for k, v in value.items() if not k.startswith("@")})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise InputError(f"{kind.__name__} has no field {where!r}; known are {known}.") from None
        raise InputError(f"{kind.__name__}.{where} is {first.get('input')!r}: {first['msg']}.") from None


def _sendable(value: Any) -> Any:
    """Return an argument with ASE Atoms as pymatgen Structures: jobflow writes arguments as JSON, Atoms have none."""
    if isinstance(value, list | tuple):
        return [_sendable(v) for v in value]
    if hasattr(value, "get_positions") and hasattr(value, "pbc") and not hasattr(value, "as_dict"):
        from aqvolt_flows.structures import to_structure

        return to_structure(value)
    if hasattr(value, "get_potential_energy") or any(c.__name__ == "ModelInterface" for c in type(value).__mro__):
        from aqvolt_flows.potentials.given import storable

        return storable(value)
    return value


def _is_reference(value: Any) -> bool:
    from jobflow import OutputReference

    return isinstance(value, OutputReference) or (hasattr(value, "output") and hasattr(value, "uuid"))


def _known(value: Any) -> Any:
    """Return an argument without references to outputs of jobs that have not run yet; LATER if it is nothing else."""
    if _is_reference(value):
        return LATER
    if isinstance(value, list | tuple) and any(_is_reference(v) for v in value):
        return [v for v in value if not _is_reference(v)] or LATER
    return value
