"""One job per structure of a list that is known only when the flow runs: the bridge from batches to statics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Maker, Response

from aqvolt_flows.errors import InputError
from aqvolt_flows.jobs import LATER, science_job
from aqvolt_flows.structures import to_structures


def _check(_maker: EachMaker, structures: Any) -> None:
    if structures is not LATER:
        to_structures(structures)


@dataclass
class EachMaker(Maker):
    """Run another maker on every structure of a list, one job (or flow) each.

    The list may be a reference, such as ``direct.output.structures``: the job is replaced, when it runs, by one job
    per structure. Its output is the list of their outputs in the order of the structures, as references that jobflow
    resolves; None stands for a job that failed.

    Parameters
    ----------
    maker
        Any maker whose ``make`` takes one pymatgen Structure: ``R2scanStaticMaker``, ``SurrogateStaticMaker``, or
        atomate2's own, e.g. ``MatPesMetaGGAStaticMaker``. ``update_maker_kwargs`` reaches it.
    name
        Name of the job.

    Examples
    --------
    ::

        direct = DirectMaker().make(md.output)
        statics = EachMaker(SurrogateStaticMaker()).make(direct.output.structures)
        flow = Flow([md, direct, statics], output=statics.output)
    """

    name: str = field(default="each structure", kw_only=True)
    maker: Maker | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.maker, "make"):
            raise InputError(
                f"EachMaker was given a {type(self.maker).__name__}; expected a maker whose make takes one structure, "
                "e.g. EachMaker(SurrogateStaticMaker())."
            )

    @science_job(None, check=_check)
    def make(self, structures: Any) -> Response:
        """Replace this job by one job per structure.

        Parameters
        ----------
        structures
            pymatgen Structures or ASE Atoms, or a reference to a list of them.

        Raises
        ------
        InputError
            If there is none, or one is something else.
        """
        jobs = []
        for index, structure in enumerate(to_structures(structures)):
            made = self.maker.make(structure)  # type: ignore[union-attr]
            made.name = f"{made.name} {index}"
            jobs.append(made)
        return Response(replace=Flow(jobs, output=[j.output for j in jobs]))
