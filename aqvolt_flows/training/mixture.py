"""Several releases as one training set, drawn anew each epoch; what fairchem's data loader is given.

fairchem's own concatenation reads, for a ratio below 1, the first part of a set for ever. Here the index space holds
every kept frame of every source once, the data set knows nothing of epochs, and the sampler draws each epoch's frames
from seed and epoch alone, so that a resumed run draws what an undisturbed one would. Nothing here imports torch or
fairchem before a trainer calls it.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.aside import written_aside
from aqvolt_flows.training.packing import drawn, packed
from aqvolt_flows.training.preflight import Checked

logger = logging.getLogger(__name__)


def selection(checked: Checked, workdir: Path) -> dict[str, list[dict[str, Any]]] | None:
    """Write which frames are kept, and return the sources of ``train`` and ``val`` for a configuration.

    Parameters
    ----------
    checked
        From :func:`aqvolt_flows.training.preflight.preflight`.
    workdir
        Takes ``selection/SOURCE-SPLIT.npy``.

    Returns
    -------
    dict or None
        None where one release is read whole: fairchem's own data set and sampler do that.
    """
    if checked.plain:
        return None
    folder = workdir / "selection"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for split, read in (("train", "train"), ("val", checked.validated_on)):
        found[split] = []
        for number, source in enumerate(checked.sources):
            kept = checked.kept[source.name, read]
            if not len(kept):
                continue
            path = folder / f"{number}-{read}.npy"
            with written_aside(path) as aside, aside.open("wb") as handle:
                np.save(handle, kept)
            found[split].append(
                {
                    "name": source.name,
                    "folder": str(source.splits[read].folder),
                    "kept": str(path),
                    "weight": source.weight if split == "train" else 1.0,
                }
            )
    return found


class MixedDataset:
    """Kept frames of several fairchem data sets in one index space.

    Attributes
    ----------
    dataset_names
        One per source, ``TASK.SOURCE``: fairchem's metrics are kept by these.
    sizes, weights
        Kept frames and weight of each source.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        names: Sequence[str],
        kept: Sequence[NDArray[np.int64]],
        weights: Sequence[float],
        recipe: tuple[Any, ...] | None = None,
    ) -> None:
        self._recipe = recipe
        self.datasets = list(datasets)
        self.dataset_names = list(names)
        self.kept = [np.asarray(k, dtype=np.int64) for k in kept]
        self.weights = [float(w) for w in weights]
        self.sizes = [len(k) for k in self.kept]
        self._ends = np.cumsum(self.sizes).tolist()

    def __reduce__(self) -> Any:
        """Return how a loader's worker opens the files anew: open LMDB files cannot be sent to another process."""
        return object.__reduce__(self) if self._recipe is None else (mixed_dataset, self._recipe)

    def __len__(self) -> int:
        """Return the number of kept frames."""
        return int(self._ends[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Return the source of an index, and the row in it."""
        source = bisect_right(self._ends, index)
        first = self._ends[source - 1] if source else 0
        return source, int(self.kept[source][index - first])

    def __getitem__(self, index: int) -> Any:
        """Return fairchem's data object, named after its source."""
        source, row = self.place(int(index))
        data = self.datasets[source][row]
        data.dataset_name = self.dataset_names[source]
        data.fixed = data.fixed.long()
        data.atomic_numbers = data.atomic_numbers.long()
        return data

    def natoms(self) -> NDArray[np.int64]:
        """Return the size of every frame, in the order of the index space."""
        pairs = zip(self.datasets, self.kept, strict=True)
        sizes = [np.asarray(dataset.get_metadata("natoms", kept.tolist()), dtype=np.int64) for dataset, kept in pairs]
        return np.concatenate(sizes)

    def metadata_hasattr(self, attr: str) -> bool:
        """Return whether every source has this metadata."""
        return all(dataset.metadata_hasattr(attr) for dataset in self.datasets)

    def get_metadata(self, attr: str, index: int | Sequence[int]) -> Any:
        """Return metadata of one or several frames."""
        if isinstance(index, int):
            source, row = self.place(index)
            return self.datasets[source].get_metadata(attr, row)
        return [self.get_metadata(attr, int(i)) for i in index]


def mixed_dataset(
    sources: Sequence[Mapping[str, Any]],
    a2g_args: Mapping[str, Any],
    transforms: Mapping[str, Any],
    task_name: str,
) -> MixedDataset:
    """Return the data set that a configuration describes; fairchem's configuration calls it.

    Parameters
    ----------
    sources
        Entries of :func:`selection`.
    a2g_args, transforms
        As fairchem's ``AseDBDataset`` takes them.
    task_name
        Name of the data set inside fairchem.
    """
    from fairchem.core.datasets.ase_datasets import AseDBDataset
    from omegaconf import OmegaConf

    given = {"sources": list(sources), "a2g_args": a2g_args, "transforms": transforms}
    plain: Any = OmegaConf.to_object(OmegaConf.create(given))
    sources = plain["sources"]
    reading = {"a2g_args": plain["a2g_args"], "transforms": plain["transforms"]}
    datasets = [AseDBDataset({"src": [str(s["folder"])], **reading}) for s in sources]
    kept = [np.load(str(s["kept"])) for s in sources]
    names = [f"{task_name}.{s['name']}" for s in sources]
    recipe = (sources, reading["a2g_args"], reading["transforms"], task_name)
    return MixedDataset(datasets, names, kept, [float(s["weight"]) for s in sources], recipe)


class EpochBatchSampler:
    """Batches of at most ``max_atoms`` over frames that are drawn anew each epoch.

    The number of batches is that of epoch 0, because learning rates and ranks count on it: an epoch with more leaves
    the last ones out (others each time), one with fewer repeats its first.

    Parameters
    ----------
    dataset
        Sizes and weights of its sources say what is drawn.
    max_atoms
        Atoms of a batch.
    num_replicas, rank
        Ranks, and which this is.
    seed
        Determines all draws, with the epoch.
    """

    def __init__(self, dataset: MixedDataset, max_atoms: int, num_replicas: int, rank: int, seed: int) -> None:
        self.dataset, self.max_atoms, self.seed = dataset, int(max_atoms), int(seed)
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch, self.start_iter = 0, 0
        self._natoms = dataset.natoms()
        self.num_samples = -(-len(self.batches(0)) // num_replicas)
        logger.info("Epochs of %s batches a rank over %s kept frames.", self.num_samples, len(dataset))

    def __len__(self) -> int:
        """Return the number of batches that a rank sees in an epoch."""
        return self.num_samples

    def batches(self, epoch: int) -> list[list[int]]:
        """Return all batches of an epoch, before they are divided among ranks."""
        indices = drawn(self.dataset.sizes, self.dataset.weights, self.seed, epoch)
        return [indices[a:b].tolist() for a, b in packed(self._natoms[indices], self.max_atoms)]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's batches of the epoch from where it starts."""
        found = self.batches(self.epoch)
        total = self.num_samples * self.num_replicas
        found = (found * -(-total // len(found)))[:total]
        yield from found[self.rank :: self.num_replicas][self.start_iter :]

    def set_epoch_and_start_iteration(self, epoch: int, start_iter: int) -> None:
        """Set where the next iteration begins; fairchem calls it at each epoch, and on resuming."""
        self.epoch, self.start_iter = epoch, start_iter
