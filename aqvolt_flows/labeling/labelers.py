"""From a campaign's labeling parameters to the maker that labels, and whether it can run here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.labeling.gpaw import GpawStaticMaker, missing_setups
from aqvolt_flows.labeling.surrogate import SurrogateStaticMaker
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.potentials import check_model
from aqvolt_flows.schemas.parameters import LabelingParameters

if TYPE_CHECKING:
    from jobflow import Maker


def labeler_maker(parameters: LabelingParameters) -> Maker:
    """Return the maker of one label; its ``make(frame_id, key)`` is a job."""
    if parameters.labeler == "surrogate":
        return SurrogateStaticMaker(potential=parameters.surrogate)
    if parameters.labeler == "gpaw":
        return GpawStaticMaker(ecut_ev=parameters.gpaw_ecut_ev, kspacing=parameters.gpaw_kspacing)
    return R2scanStaticMaker(
        incar_updates=dict(parameters.incar_updates),
        potcar_hashes=dict(parameters.potcar_hashes),
        max_errors=parameters.max_errors,
        max_restarts=parameters.max_restarts,
        wall_time_s=parameters.wall_time_s,
    )


def check_labeler(parameters: LabelingParameters, elements: Iterable[str] = ()) -> None:
    """Raise unless the labeler can run here.

    Parameters
    ----------
    parameters
        The campaign's labeling parameters.
    elements
        Elements of the frames to label; each needs its POTCAR.

    Raises
    ------
    ResourceError
        VASP_CMD unset, no POTCARs, GPAW not installed, weights missing: one sentence that says what to do.
    ConfigError
        If the installed pymatgen would write another theory level than the frozen one.
    """
    if parameters.labeler == "surrogate":
        check_model(parameters.surrogate)
    elif parameters.labeler == "gpaw":
        if importlib.util.find_spec("gpaw") is None:
            raise ResourceError(
                "The labeler gpaw needs GPAW, which is not installed; install the extra gpaw (docs tell how libxc is "
                "found), or choose another labeler."
            )
        absent = missing_setups(elements)
        if absent:
            raise ResourceError(
                f"GPAW has no PAW dataset for {', '.join(absent)}; expected them in gpaw-data or GPAW_SETUP_PATH, or "
                "choose another labeler."
            )
    else:
        _check_vasp(parameters, elements)


def _check_vasp(parameters: LabelingParameters, elements: Iterable[str]) -> None:
    from aqvolt_flows.vasp.inputs import vasp_command
    from aqvolt_flows.vasp.level import TheoryLevel
    from aqvolt_flows.vasp.potcars import potcar_folder

    level = TheoryLevel(parameters.incar_updates, parameters.potcar_hashes)
    level.incar  # noqa: B018 - refuses changes that leave r2SCAN
    vasp_command()
    potcar_folder()
    level.check_potcars(elements)
    level.check_installed()
