"""fairchem's runner in this process, as one rank: quick to start, and with hands on its parts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import labelled, open_split
from aqvolt_flows.training.esen import stage_config
from aqvolt_flows.training.references import reference_energies

STAGE = {"steps": 12, "max_atoms": 24, "max_neighbors": 60, "bf16": False, "learning_rate": 1e-3}
COEFFICIENTS = {"energy_coefficient": 10, "force_coefficient": 30}
TOY: dict[str, Any] = {
    "architecture": "eSEN-toy", "n_layers": 1, "sphere_channels": 8, "hidden_channels": 8, "n_distance_basis": 8,
    "cutoff_a": 5.0, "ema_decay": 0.8, "direct": STAGE | COEFFICIENTS,
    "conservative": STAGE | COEFFICIENTS | {"stress_coefficient": 5},
}  # fmt: skip


@contextmanager
def runner(release: Path, workdir: Path, theirs: bool = False, **values: Any) -> Iterator[Any]:
    """Yield a runner of stage ``direct`` with keys of its parameters changed (``stage``: of the stage).

    ``theirs``: fairchem's own training unit and checkpoints.
    """
    import hydra
    import torch
    from fairchem.core._cli import get_hydra_config_from_yaml
    from fairchem.core.common import distutils
    from omegaconf import OmegaConf

    parameters = TrainingParameters(**TOY | {"direct": TOY["direct"] | values.pop("stage", {})} | values)
    train, val = open_split(release, "train"), open_split(release, "val")
    references = reference_energies(labelled(train))
    config = stage_config("direct", parameters, train.folder, val.folder, references, workdir, "direct", "cpu")
    if theirs:
        unit, runs = config["runner"]["train_eval_unit"], config["runner"]["callbacks"]
        unit["_target_"] = "fairchem.core.units.mlip_unit.mlip_unit.MLIPTrainEvalUnit"
        runs[:] = [{**runs[0], "_target_": "fairchem.core.components.callbacks.TrainCheckpointCallback"}]
        for name in ("guard", "accumulation"):
            unit.pop(name)
        runs[0].pop("best_by")
    folder = workdir / "direct"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    whole = get_hydra_config_from_yaml(str(folder / "config.yaml"), [])
    Path(whole.job.metadata.log_dir).mkdir(parents=True, exist_ok=True)
    OmegaConf.save(whole, whole.job.metadata.config_path)
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)
    distutils.setup(
        {"submit": False, "cpu": True, "distributed_backend": "gloo", "world_size": 1, "init_method": "tcp"}
    )
    try:
        torch.manual_seed(0)
        made = hydra.utils.instantiate(whole.runner)
        made.job_config = whole.job
        made.load_state(None)
        yield made
    finally:
        distutils.cleanup()
        signal.signal(signal.SIGTERM, handler)
        os.environ.clear()
        os.environ.update(before)


def records(workdir: Path, event: str) -> list[dict[str, Any]]:
    """Return the records of an event."""
    lines = (workdir / "direct/progress.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["event"] == event]


def checkpoints(workdir: Path) -> set[str]:
    """Return the names of complete checkpoints."""
    return {p.parent.name for p in (workdir / "direct/checkpoints").glob("*/.metadata")}
