"""One round of sampling on a database: shards in, chosen frames, state and picture out."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.identity import content_key
from aqvolt_flows.sampling.chosen import Choice, FrameWriter
from aqvolt_flows.sampling.earlier import (
    EarlierRounds,
    Marked,
    give_back,
    known_of,
    with_outcome,
)
from aqvolt_flows.sampling.features.encode import FILTERS
from aqvolt_flows.schemas.feature import FeatureDocument
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.sample import CoveredSource, SampleDocument

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct.method import TwoStageDirect
    from aqvolt_flows.sampling.direct.selection import Selection
    from aqvolt_flows.sampling.features.shards import FeatureShards
    from aqvolt_flows.stores import Database

#: Fields that decide a selection; rounds that agree in them and in the encoder share a state.
CHOICES = (
    "structure_threshold",
    "atom_threshold",
    "k",
    "weight_components",
    "seed",
    "stage1",
    "stage2",
    "pick",
    "order",
    "search",
    "beam",
    "scaling",
)
#: Of them, those that came after version 0.1: at their default they are in no key.
LATER = {"scaling": "standard", "equilibration": False}
_NOTHING = {"covered_before": 0, "structure_clusters": 0, "atom_clusters": 0}


def space_key(encoder_sha256: str, parameters: SamplingParameters) -> str:
    """Return the key that rounds share which choose jointly.

    The encoder's layers follow from its weights; filters and thinning decide what is offered, not where it lies, and
    may differ between rounds (:func:`offer_key`).
    """
    choices = parameters.model_dump(mode="json", include=set(CHOICES))
    choices = {name: value for name, value in choices.items() if LATER.get(name, ...) != value}
    return content_key("space/1", encoder=encoder_sha256, choices=choices)


def offer_key(parameters: SamplingParameters) -> str:
    """Return the key of what is offered of a trajectory: thinning, filters, and whether its equilibration is.

    A trajectory that a round of the same space saw under the same key is not looked at again.
    """
    filters = parameters.model_dump(mode="json", include=set(FILTERS))
    if parameters.equilibration:
        filters |= {"equilibration": True}
    return content_key("offer/1", stride=parameters.encode_stride, filters=filters)


def two_stage(parameters: SamplingParameters, device: str) -> TwoStageDirect:
    """Return the selection that parameters ask for.

    Parameters
    ----------
    parameters
        Choices and engine; ``auto`` is torch where the device is a GPU.
    device
        torch device.
    """
    from aqvolt_flows.sampling.direct.method import TwoStageDirect

    engine = parameters.engine
    if engine == "auto":
        engine = "torch" if device.startswith("cuda") else "cpu"
    choices = {name: getattr(parameters, name) for name in CHOICES}
    return TwoStageDirect(**choices, engine=engine, device=device, remember=False)


@dataclass
class Round:
    """One round.

    Parameters
    ----------
    database
        Where documents and artifacts are.
    parameters
        Choices of the selection.
    key
        Content key of the round.
    """

    database: Database
    parameters: SamplingParameters
    key: str

    def run(
        self,
        encoded: Sequence[dict[str, Any]],
        covered: Sequence[dict[str, Any]],
        previous: Sequence[str],
        shape: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        """Choose, write ``frames`` and the ``samples`` document, and return what people read of it.

        Parameters
        ----------
        encoded, covered, shape
            Outputs of the encoding jobs.
        previous
            sample_id of earlier rounds, the first one first; their frames and this round's are chosen from jointly.
        """
        started = time.monotonic()
        documents = self._shards([s for e in encoded for s in e["shards"]])
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(document.counts)
        sets = {c["source"]: self._covered_source(c) for c in covered}
        shapes = [self._covered_source(c) for c in shape]
        chosen = self._choose(documents, previous, sets, shapes)
        ids, artifact, new_frames = FrameWriter(self.database, self.key).write(chosen) if chosen else ([], None, 0)
        selection = chosen.selection if chosen else None
        back = chosen.marked.given_back(selection) if chosen and selection else []
        give_back(self.database, back)
        about = documents[0] if documents else None
        sample = SampleDocument(
            key=self.key,
            sample_id=f"sample-{self.key}",
            encoder=self.parameters.encoder,
            encoder_sha256=about.encoder_sha256 if about else "",
            layer=about.layer if about else "",
            space_key=space_key(about.encoder_sha256, self.parameters) if about else "",
            offer_key=offer_key(self.parameters),
            parameters=selection.parameters if selection else self.parameters.model_dump(mode="json"),
            trajectory_ids=sorted({p.source for d in documents for p in d.pieces}),
            shards=[d.shard_id for d in documents],
            previous=list(previous),
            covered=list(sets.values()),
            shape=shapes,
            funnel=dict(counts) | (chosen.funnel if chosen else _NOTHING) | {"selected": len(ids)},
            new_frames=new_frames,
            given_back=back,
            coverage=selection.coverage if selection else {},
            comparison=self._compare(chosen) if chosen else {},
            frames=artifact,
            state=self._store_state(selection) if selection else None,
            picture=self._store_picture(selection) if selection else None,
            seconds=time.monotonic() - started,
        )
        self.database.upsert("samples", [sample])
        return sample.model_dump(
            mode="json",
            include={"sample_id", "key", "funnel", "coverage", "comparison", "parameters", "new_frames", "picture"},
        )

    def _shards(self, ids: Sequence[str]) -> list[FeatureDocument]:
        return [FeatureDocument(**d) for d in self.database.find_by_ids("features", ids)]

    def _features(self, documents: Iterable[FeatureDocument], verify: bool = True) -> FeatureShards | None:
        from aqvolt_flows.sampling.features.shards import FeatureShards

        references = [d.artifact for d in documents if d.artifact is not None]
        return FeatureShards.of(self.database.artifacts, references, verify) if references else None

    def _covered_source(self, output: dict[str, Any]) -> CoveredSource:
        n_frames = sum(d.n_frames for d in self._shards(output["shards"]))
        return CoveredSource(
            source=output["source"], fingerprint=output["fingerprint"], n_frames=n_frames, shards=output["shards"]
        )

    def _choose(
        self,
        documents: Sequence[FeatureDocument],
        previous: Sequence[str],
        covered: Mapping[str, CoveredSource],
        shape: Sequence[CoveredSource],
    ) -> Choice | None:
        """Choose from the frames of all rounds; None if this one brings no frame."""
        own = self._features(documents)
        if own is None:
            return None
        earlier = EarlierRounds.of(self.database, previous)
        earlier.check_encoder(own.encoder_sha256, own.layer)
        mine = {d.shard_id for d in documents}
        before = self._shards([s for s in earlier.shards if s not in mine])
        # bytes were compared with their hashes by the round that read them first
        shards = self._features([*before, *documents], verify=False) if before else own
        assert shards is not None
        labeled = with_outcome(self.database) if earlier.chosen else set()
        marked = Marked.of(shards, earlier.chosen, labeled)
        sets = [s for c in (earlier.covered | dict(covered)).values() for s in c.shards]
        there, around = (
            self._features(self._shards(list(dict.fromkeys(names))))
            for names in (sets, [s for c in shape for s in c.shards])
        )
        selection = two_stage(self.parameters, self.database.settings.resolve_device()).select(
            *(shards.structures(), shards.atoms(), shards.n_atoms),
            covered=known_of(there) if there is not None else None,
            chosen=marked.chosen,
            unlabeled=marked.rows_unlabeled,
            shape=known_of(around) if around is not None else None,
        )
        return Choice(shards, own, marked, selection, [*before, *documents])

    def _compare(self, choice: Choice) -> dict[str, dict[str, float]]:
        """Return how well the chosen, as many random frames, and earlier rounds alone cover this round's frames."""
        from aqvolt_flows.sampling.direct.coverage import coverage
        from aqvolt_flows.sampling.direct.state import SampledSpace

        state, own = choice.selection.state, choice.shards_of_round
        n, first = len(own), len(choice.shards) - len(own)
        number = min(len(choice.selection.indices), n)
        if not number:
            return {}
        earlier = choice.before
        drawn = np.sort(np.random.default_rng(self.parameters.seed).choice(n, number, replace=False)) + first
        random = state.space.project(rows_at(choice.shards.structures(), drawn))
        sets = {
            "chosen": state.chosen,
            "random": np.concatenate([earlier, random]),
        } | ({"before": earlier} if len(earlier) else {})
        found = {}
        for name, points in sets.items():
            there = replace(SampledSpace.empty(state.space, state.threshold), chosen=points.astype(np.float32))
            result = asdict(coverage(own.structures(), there, state.space, state.threshold))
            found[name] = {k: float(v) for k, v in result.items() if k != "threshold"}
        return found

    def _store_state(self, selection: Selection) -> ArtifactRef:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.npz"
            selection.state.save(path)
            return self.database.artifacts.put_file(path, "npz")

    def _store_picture(self, selection: Selection) -> ArtifactRef:
        from aqvolt_flows.sampling.direct.coverage import picture

        bins = int(np.clip(1.2 * np.sqrt(len(selection.components)), 16, 256))
        drawn = picture(selection.components, selection.indices, bins=bins)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.npz"
            arrays: dict[str, Any] = {k: np.asarray(v) for k, v in vars(drawn).items()}
            np.savez_compressed(path, **arrays)
            return self.database.artifacts.put_file(path, "npz")


def rows_at(blocks: Iterable[NDArray[np.float32]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return some rows (sorted numbers) of a set that is read in blocks."""
    found, first = [], 0
    for block in blocks:
        here = rows[(rows >= first) & (rows < first + len(block))] - first
        found.append(block[here])
        first += len(block)
    return np.concatenate(found)
