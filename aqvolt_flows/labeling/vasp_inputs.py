"""atomate2's maker of a MatPES r2SCAN static, with our custodian settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aqvolt_flows.vasp.inputs import matpes_static_set
from aqvolt_flows.vasp.run import MONITOR_S, custodian_settings

if TYPE_CHECKING:
    from atomate2.vasp.jobs.matpes import MatPesMetaGGAStaticMaker


def static_maker(
    incar_updates: Mapping[str, Any],
    command: str,
    max_errors: int = 5,
    polling_s: float = 0.1,
    wall_time_s: int | None = None,
) -> MatPesMetaGGAStaticMaker:
    """Return atomate2's ``MatPesMetaGGAStaticMaker`` as this project runs it.

    Handlers that would change the theory level of single labels (LargeSigmaHandler, IncorrectSmearingHandler,
    KspacingMetalHandler change SIGMA, ISMEAR, KSPACING) are left out: one release, one smearing.

    Parameters
    ----------
    incar_updates
        Changes to MatPESStaticSet.
    command
        Starts VASP.
    max_errors
        Corrections that custodian may try.
    polling_s
        Seconds between looks whether VASP has ended.
    wall_time_s
        If given, custodian has VASP abort its SCF shortly before this many seconds (a tenth of it, at most 300 s).
    """
    from atomate2.vasp.jobs.matpes import MatPesMetaGGAStaticMaker
    from custodian.vasp.handlers import (
        FrozenJobErrorHandler,
        MeshSymmetryErrorHandler,
        NonConvergingErrorHandler,
        PositiveEnergyErrorHandler,
        StdErrHandler,
        UnconvergedErrorHandler,
        VaspErrorHandler,
        WalltimeHandler,
    )

    handlers = [
        VaspErrorHandler(),
        MeshSymmetryErrorHandler(),
        UnconvergedErrorHandler(),
        NonConvergingErrorHandler(),
        PositiveEnergyErrorHandler(),
        FrozenJobErrorHandler(),
        StdErrHandler(),
    ]
    monitor_s = MONITOR_S
    if wall_time_s is not None:
        buffer_s = min(MONITOR_S, 0.1 * wall_time_s)
        # LSTOP, atomate2's choice, waits for the end of the ionic step, and a static has one only
        limit = WalltimeHandler(wall_time_s, buffer_s, electronic_step_stop=True)
        limit.start_time = datetime.now()  # custodian's own is the start of the worker's first run
        handlers.append(limit)
        monitor_s = buffer_s / 3
    return MatPesMetaGGAStaticMaker(
        name="r2SCAN static",
        input_set_generator=matpes_static_set(incar_updates),
        run_vasp_kwargs=custodian_settings(command, max_errors, polling_s, monitor_s, handlers=handlers),
        # Eigenvalues, DOS and charge densities stay in the files; the outcome carries what a label needs.
        task_document_kwargs={"parse_dos": False, "parse_bandstructure": False, "store_volumetric_data": ()},
        stop_children_kwargs={"handle_unsuccessful": False},
    )
