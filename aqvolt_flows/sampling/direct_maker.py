"""The maker of 2DIRECT on MD documents or structures, for any script: no project, no database, no settings."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Maker

from aqvolt_flows.errors import InputError
from aqvolt_flows.jobs import LATER, science_job, typed
from aqvolt_flows.potentials.given import resolve_device
from aqvolt_flows.sampling.encoders.registry import encoder_entry, load_encoder
from aqvolt_flows.sampling.offer import Offer
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.selection import DirectDocument, SelectedFrame

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from aqvolt_flows.frames import Frame
    from aqvolt_flows.sampling.direct.selection import Selection
    from aqvolt_flows.sampling.encoders.base import Encoder
    from aqvolt_flows.sampling.features.shards import EncodedFrames

logger = logging.getLogger(__name__)
#: Atoms of the selected structures, about 300 bytes each, that fit into one of MongoDB's documents of 16 MB.
_SITES_OF_A_DOCUMENT = 40_000


def _check(maker: DirectMaker, source: Any) -> None:
    if not isinstance(maker.encoder_name, str):
        raise InputError(
            f"The encoder is a {type(maker.encoder_name).__name__}; expected an encoder string, e.g. 'chgnet/r2scan'."
        )
    encoder_entry(maker.encoder_name)
    for name in ("covered_by", "space_from"):
        if getattr(maker.parameters, name):
            raise InputError(f"{name} names sets of a project's database; DirectMaker has none, leave it empty.")
    if source is not LATER:
        Offer.of(source)


@dataclass
class DirectMaker(Maker):
    """Encode frames or structures and select those that cover their feature space by 2DIRECT, in memory.

    Parameters
    ----------
    name
        Name of the job.
    encoder
        Encoder string, e.g. ``chgnet/r2scan``; None: that of the parameters.
    parameters
        Thresholds, filters, choices and engine; a dict of their values is read. What only a campaign has
        (``covered_by``, ``space_from``, sizes of shards and jobs) is not used.
    device
        torch device; ``auto``: a GPU where there is one.
    """

    name: str = field(default="2DIRECT of structures", kw_only=True)
    encoder: str | None = None
    parameters: SamplingParameters = field(default_factory=SamplingParameters)
    device: str = "auto"

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, SamplingParameters)

    @property
    def encoder_name(self) -> str:
        """The encoder that is used."""
        return self.parameters.encoder if self.encoder is None else self.encoder

    @science_job(DirectDocument, check=_check)
    def make(self, source: Any) -> DirectDocument:
        """Select from frames of MD, or from structures.

        Frames pass the filters of the parameters first (finite, not exploded, no overlap, no duplicate); the funnel
        counts what each left out. A selection of more than about 40,000 atoms is too large for one MongoDB document:
        use a campaign for those, or a threshold that selects less.

        Parameters
        ----------
        source
            Output of :class:`~aqvolt_flows.exploration.npt_maker.NpTMDMaker`, a list of such outputs, pymatgen
            Structures or ASE Atoms, or references to them. Frames are read from the documents, or from their Parquet
            files where the documents do not hold them.

        Raises
        ------
        InputError, ResourceError
            If the source is none of these, no frame passes the filters, or the encoder cannot be loaded.
        """
        device = resolve_device(self.device)
        return select_from(Offer.of(source), load_encoder(self.encoder_name, device), self.parameters, device)


def select_from(offer: Offer, encoder: Encoder, parameters: SamplingParameters, device: str = "cpu") -> DirectDocument:
    """Encode what is offered, select by 2DIRECT, and return the document.

    Parameters
    ----------
    offer
        Structures or trajectories.
    encoder
        Loaded.
    parameters
        Filters and choices.
    device
        torch device of the engine.
    """
    from aqvolt_flows.sampling.features.encode import Encoding
    from aqvolt_flows.sampling.rounds import two_stage

    encoding = Encoding(encoder, parameters)
    for name, volume, blocks in offer.blocks(parameters):
        encoding.add(name, volume, blocks)
    encoded = encoding.result()
    if encoded.frames is None:
        left_out = ", ".join(f"{n} {reason}" for reason, n in encoded.counts.items() if n and reason != "generated")
        raise InputError(
            f"None of {encoded.counts['generated']} frames can be encoded ({left_out or 'there is none'}); run MD that "
            "completes, or relax the filters."
        )
    features = encoded.frames.features
    selection = two_stage(parameters, device).select(features.structures, features.atoms, features.n_atoms)
    structures, selected = _selected(offer, encoded.frames, selection)
    if sum(len(s) for s in structures) > _SITES_OF_A_DOCUMENT:
        logger.warning("The selection has %d atoms; MongoDB may refuse it", sum(len(s) for s in structures))
    clusters = {name: int(selection.coverage[name]) for name in ("structure_clusters", "atom_clusters")}
    return DirectDocument(
        encoder=encoder.name,
        encoder_sha256=encoder.sha256,
        layer=encoder.layer,
        parameters=selection.parameters,
        n_encoded=len(features.n_atoms),
        funnel=encoded.counts | clusters | {"selected": len(selected)},
        coverage=selection.coverage,
        selected=selected,
        structures=structures,
    )


def _selected(offer: Offer, frames: EncodedFrames, selection: Selection) -> tuple[list[Structure], list[SelectedFrame]]:
    """Return the selected structures and what is known of them, in the order in which they were offered."""
    structures, selected = [], []
    indices = selection.indices.tolist()
    for name, group in groupby(indices, key=lambda i: frames.trajectory_ids[i]):
        places = list(group)
        rows = [int(frames.rows[i]) for i in places]
        for index, row, (structure, frame) in zip(places, rows, offer.find(name, rows), strict=True):
            structures.append(structure)
            selected.append(_selected_frame(offer, name, row, index, frame, selection))
    return structures, selected


def _selected_frame(
    offer: Offer, name: str, row: int, index: int, frame: Frame | None, selection: Selection
) -> SelectedFrame:
    origin: dict[str, Any] = {"structure_index": row}
    if frame is not None:
        run = offer.trajectory(name)
        document, trajectory = (int(part) for part in name.split("/"))
        origin = {
            "document_index": document,
            "trajectory_index": trajectory,
            "structure_index": run.structure_index,
            "row": row,
            "step": frame.step,
            "temperature_k": run.temperature_k,
            "energy": frame.energy,
        }
    return SelectedFrame(
        **origin,
        structure_cluster=int(selection.structure_clusters[index]),
        structure_distance=float(np.float64(selection.structure_distances[index])),
        atom_clusters=selection.atom_clusters[index],
        atom_distances=selection.atom_clusters.distances(index),
    )
