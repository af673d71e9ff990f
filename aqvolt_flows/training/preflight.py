"""Look at every label before anything is trained: what fairchem would mask, drop or stumble over in silence.

fairchem masks targets that are not finite, leaves out structures larger than a batch, takes 0 for the reference energy
of an element that the training set does not have, and fails at the first label without stress only when the
conservative stage begins. Here all splits are read once; what is found is counted, named by ``frame_id``, and refused
or dropped as the parameters say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.chemistry import symbols_of as symbols
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import LabelledFrame, Source, Split, frames, some_frames
from aqvolt_flows.training.edges import count_edges
from aqvolt_flows.training.references import MAX_ELEMENTS, Composition, Compositions, References
from aqvolt_flows.training.shared_frames import Shared, shared_frames

#: Frames that are named per finding, and structures per source whose edges are counted.
NAMED, EDGE_SAMPLE = 5, 64
#: What is wrong with a label, as sentences say it, and the parameter that decides about it.
SAID: dict[str, tuple[str, str]] = {
    "no_energy": ("have no energy", "on_bad_labels"),
    "no_forces": ("have no forces", "on_bad_labels"),
    "no_stress": ("have no stress, which the conservative stage learns", "on_bad_labels"),
    "wrong_shape": ("have forces or a stress of a wrong shape", "on_bad_labels"),
    "energy_not_finite": ("have an energy that is not finite", "on_bad_labels"),
    "forces_not_finite": ("have forces that are not finite", "on_bad_labels"),
    "stress_not_finite": ("have a stress that is not finite", "on_bad_labels"),
    "geometry_not_finite": ("have positions or a cell that are not finite", "on_bad_labels"),
    "element_beyond_model": (f"have an element beyond Z = {MAX_ELEMENTS - 1}", "on_bad_labels"),
    "element_not_in_training": ("have elements that the training set does not have", "on_unknown_elements"),
    "oversize": ("have more atoms than a batch", "on_oversize"),
    "shared": ("are in the validation or test set of another release", "on_shared_frames"),
}


@dataclass(frozen=True)
class Finding:
    """One kind of trouble in one split of one source."""

    kind: str
    source: str
    split: str
    count: int
    of: int
    frame_ids: list[str]
    fate: Literal["refused", "dropped", "not used"]
    detail: str = ""

    def sentence(self) -> str:
        """Return what was found, in a clause."""
        named = ", ".join(self.frame_ids) + (", …" if self.count > len(self.frame_ids) else "")
        detail = f" ({self.detail})" if self.detail else ""
        said = f"{self.count} of {self.of} {self.split} labels of {self.source} {SAID[self.kind][0]}{detail}: {named}"
        return said.replace(" labels of training set ", " labels ")


@dataclass(frozen=True, eq=False)
class Checked:
    """Sources whose labels were looked at.

    Attributes
    ----------
    sources
        As given.
    kept
        (source, split) → indices that are trained or validated on.
    references
        Of what is kept of the training splits, weights disregarded.
    validated_on
        ``val``; ``train`` where no source has a validation frame.
    report
        For the model's document.
    """

    sources: Sequence[Source]
    kept: Mapping[tuple[str, str], NDArray[np.int64]]
    references: References
    validated_on: str
    report: dict[str, Any]

    @property
    def plain(self) -> bool:
        """One source, every frame once: fairchem's own data set and sampler read it."""
        (first, *others) = self.sources
        return (
            not others
            and first.weight == 1.0
            and all(len(self.kept[first.name, s]) == len(first.splits[s]) for s in ("train", "val"))
        )

    def natoms(self, split: str) -> list[NDArray[np.int64]]:
        """Return, per source, the sizes of what is kept of a split."""
        return [source.splits[split].natoms[self.kept[source.name, split]] for source in self.sources]


@dataclass
class _SplitLook:
    """What one pass over a split finds."""

    bad: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    elements: list[frozenset[int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    compositions: list[Composition | None] = field(default_factory=list)

    def lost(self) -> set[int]:
        return {index for found in self.bad.values() for index, _ in found}


def faults_of(frame: LabelledFrame) -> list[str]:
    """Return the kinds of :data:`SAID` that a label alone shows."""
    found = []
    n = len(frame.numbers)
    labels = (("energy", frame.energy), ("forces", frame.forces), ("stress", frame.stress))
    found += [f"no_{name}" for name, value in labels if value is None]
    found += [f"{name}_not_finite" for name, value in labels if value is not None and not np.isfinite(value).all()]
    forces_fit = frame.forces is None or frame.forces.shape == (n, 3)
    if not (forces_fit and (frame.stress is None or frame.stress.size in (6, 9))):
        found.append("wrong_shape")
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
        found.append("geometry_not_finite")
    if n and int(frame.numbers.max()) >= MAX_ELEMENTS:
        found.append("element_beyond_model")
    return found


def preflight(
    sources: Sequence[Source],
    parameters: TrainingParameters,
    isolated_atoms: Mapping[str, float] | None = None,
    whose: str = "The training set",
) -> Checked:
    """Read every label of all sources once and return what is left to train on.

    Parameters
    ----------
    sources
        At least one.
    parameters
        Sizes of batches, what to do about what is found, and which references.
    isolated_atoms
        Energies of the labels' protocol, eV by symbol, for ``references: isolated_atoms`` unless the parameters have
        their own.
    whose
        Begins the sentence about an empty training split.

    Raises
    ------
    InputError
        If something is found that is to be refused (all of it is said), or nothing is left to train on.
    """
    if not any(len(s.splits["train"]) for s in sources):
        raise InputError(f"{whose} has an empty training split; make a release with more labels.")
    looks: dict[tuple[str, str], _SplitLook] = {}
    for source in sources:
        for split in source.splits:
            looks[source.name, split] = _look(source.splits[split], parameters)
    _find_unknown_elements(sources, looks, parameters)
    shared = _find_shared(sources, looks) if len(sources) > 1 else Shared()
    findings = list(_findings(sources, looks, parameters))
    refused = [f for f in findings if f.fate == "refused"]
    if refused:
        raise InputError(_refusal(refused))
    kept = {
        key: np.setdiff1d(np.arange(len(look.names)), sorted(look.lost())).astype(np.int64)
        for key, look in looks.items()
    }
    _refuse_empty(sources, kept, findings)
    compositions = _compositions(sources, looks, kept)
    references = _references(compositions, parameters, isolated_atoms)
    validated_on = "val" if any(len(kept[s.name, "val"]) for s in sources) else "train"
    report = {
        "findings": [vars(f) | {"sentence": f.sentence()} for f in findings],
        "sources": [_source_report(source, looks, kept) for source in sources],
        "validated_on": validated_on,
        "validation": ""
        if validated_on == "val"
        else "There is no validation frame: errors are those of the training set, and say nothing of new structures.",
        "shared_frames": shared.as_dict(),
        "edges": _edge_report(sources, kept, parameters),
        "references": {
            "method": parameters.references,
            "undetermined": compositions.undetermined() if parameters.references == "least_squares" else [],
        },
    }
    return Checked(sources, kept, references, validated_on, report)


def _look(split: Split, parameters: TrainingParameters) -> _SplitLook:
    look = _SplitLook()
    limit = min(parameters.direct.max_atoms, parameters.conservative.max_atoms)
    for index, frame in enumerate(frames(split)):
        faults = faults_of(frame)
        for kind in faults:
            look.bad.setdefault(kind, []).append((index, ""))
        look.compositions.append(None if faults else Composition.of(frame.numbers, frame.energy, frame.forces))
        if len(frame.numbers) > limit:
            look.bad.setdefault("oversize", []).append((index, f"{len(frame.numbers)}"))
        look.elements.append(frozenset(int(z) for z in np.unique(frame.numbers)))
        look.names.append(frame.frame_id)
    return look


def _find_unknown_elements(
    sources: Sequence[Source], looks: Mapping[tuple[str, str], _SplitLook], parameters: TrainingParameters
) -> None:
    known: set[int] = set()
    for source in sources:
        look = looks[source.name, "train"]
        # what is refused is mended rather than left out: its elements count
        dropped = (f for kind, f in look.bad.items() if getattr(parameters, SAID[kind][1]) == "drop")
        lost = {index for found in dropped for index, _ in found}
        known = known.union(*(found for i, found in enumerate(look.elements) if i not in lost))
    for (_, split), look in looks.items():
        if split == "train":
            continue
        for index, elements in enumerate(look.elements):
            if elements - known:
                strange = ", ".join(symbols(sorted(elements - known)))
                look.bad.setdefault("element_not_in_training", []).append((index, strange))


def _find_shared(sources: Sequence[Source], looks: Mapping[tuple[str, str], _SplitLook]) -> Shared:
    lost = {key: look.lost() for key, look in looks.items()}
    shared = shared_frames(sources, lost)
    for name, places in shared.training.items():
        looks[name, "train"].bad["shared"] = [(index, where) for index, where in places]
    return shared


def _findings(
    sources: Sequence[Source], looks: Mapping[tuple[str, str], _SplitLook], parameters: TrainingParameters
) -> Iterable[Finding]:
    for source in sources:
        for split in source.splits:
            look = looks[source.name, split]
            for kind in SAID:
                found = look.bad.get(kind, [])
                if not found:
                    continue
                fate = {"refuse": "refused", "drop": "dropped"}[getattr(parameters, SAID[kind][1])]
                details = sorted({detail for _, detail in found if detail})
                yield Finding(
                    kind,
                    source.name,
                    split,
                    len(found),
                    len(look.names),
                    [look.names[index] for index, _ in found[:NAMED]],
                    fate if split in ("train", "val") else "not used",  # type: ignore[arg-type]
                    _detail(kind, details, parameters),
                )


def _detail(kind: str, details: Sequence[str], parameters: TrainingParameters) -> str:
    if kind == "oversize":
        biggest = max(int(d) for d in details)
        limits = (("direct", parameters.direct.max_atoms), ("conservative", parameters.conservative.max_atoms))
        said = ", ".join(f"training.{stage}.max_atoms = {limit}" for stage, limit in limits if biggest > limit)
        return f"up to {biggest}, {said}"
    return ", ".join(details[:NAMED])


def _refusal(refused: Sequence[Finding]) -> str:
    options = list(dict.fromkeys(SAID[f.kind][1] for f in refused))
    what = "; ".join(f.sentence() for f in refused)
    todo = f"leave them out of the release, or set {' and '.join(f'training.{o}: drop' for o in options)}"
    if any(f.kind == "oversize" for f in refused):
        todo += " or a larger max_atoms"
    return f"{what}. Nothing was trained: {todo}."


def _refuse_empty(
    sources: Sequence[Source], kept: Mapping[tuple[str, str], NDArray[np.int64]], findings: Sequence[Finding]
) -> None:
    for source in sources:
        if not len(kept[source.name, "train"]):
            why = "; ".join(f.sentence() for f in findings if (f.source, f.split) == (source.name, "train"))
            raise InputError(
                f"No training label of {source.name} is left ({why or 'its training split is empty'}); mend its "
                "labels, or train without it."
            )


def _compositions(
    sources: Sequence[Source],
    looks: Mapping[tuple[str, str], _SplitLook],
    kept: Mapping[tuple[str, str], NDArray[np.int64]],
) -> Compositions:
    found = Compositions()
    for source in sources:
        look = looks[source.name, "train"]
        for index in kept[source.name, "train"]:
            composition = look.compositions[index]
            if composition is not None:
                found.add(composition)
    return found


def _references(
    compositions: Compositions, parameters: TrainingParameters, isolated_atoms: Mapping[str, float] | None
) -> References:
    if parameters.references == "least_squares":
        return compositions.least_squares()
    return compositions.isolated_atoms(parameters.isolated_atom_energies or isolated_atoms or {})


def _source_report(
    source: Source,
    looks: Mapping[tuple[str, str], _SplitLook],
    kept: Mapping[tuple[str, str], NDArray[np.int64]],
) -> dict[str, Any]:
    return {
        "name": source.name,
        "weight": source.weight,
        "splits": {
            split: {
                "frames": len(looks[source.name, split].names),
                "kept": len(kept[source.name, split]),
                "atoms": int(source.splits[split].natoms[kept[source.name, split]].sum()),
                "elements": symbols(sorted(frozenset().union(*looks[source.name, split].elements))),
            }
            for split in source.splits
        },
    }


def edge_sample(kept: NDArray[np.int64], most: int = EDGE_SAMPLE) -> list[int]:
    """Return at most ``most`` of the kept indices, evenly spaced."""
    if len(kept) <= most:
        return [int(i) for i in kept]
    return [int(kept[i]) for i in np.linspace(0, len(kept) - 1, most).round().astype(int)]


def _edge_report(
    sources: Sequence[Source], kept: Mapping[tuple[str, str], NDArray[np.int64]], parameters: TrainingParameters
) -> dict[str, Any]:
    caps = (parameters.direct.max_neighbors, parameters.conservative.max_neighbors)
    structures = (
        frame.atoms()
        for source in sources
        for frame in some_frames(source.splits["train"], edge_sample(kept[source.name, "train"]))
    )
    direct, conservative = count_edges(structures, parameters.cutoff_a, caps)
    return {"direct": direct.as_dict(), "conservative": conservative.as_dict()}
