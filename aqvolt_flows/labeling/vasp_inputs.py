"""atomate2's maker of a MatPES r2SCAN static, with our custodian settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aqvolt_flows.vasp.inputs import matpes_static_set
from aqvolt_flows.vasp.run import custodian_settings

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
        If given, custodian stops VASP shortly before so many seconds.
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
    return MatPesMetaGGAStaticMaker(
        name="r2SCAN static",
        input_set_generator=matpes_static_set(incar_updates),
        run_vasp_kwargs=custodian_settings(command, max_errors, polling_s, handlers=handlers, wall_time=wall_time_s),
        # Eigenvalues, DOS and charge densities stay in the files; the outcome carries what a label needs.
        task_document_kwargs={"parse_dos": False, "parse_bandstructure": False, "store_volumetric_data": ()},
        stop_children_kwargs={"handle_unsuccessful": False},
    )
