"""What every rank of a training runs: fairchem's trainer, without its launchers.

fairchem's local launcher spawns its ranks, which LMDB data loaders with workers do not survive, and its launcher for
Slurm submits jobs of its own. Here the ranks are started by :func:`aqvolt_flows.training.layout.command`: directly, by
``torchrun``, or by one ``torchrun`` per node under ``srun``.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

#: A single process must not take itself for a rank of whoever started it.
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE")


def main(config_file: str) -> None:
    """Run the training that a configuration file describes, as one of its ranks."""
    from fairchem.core._cli import get_hydra_config_from_yaml
    from fairchem.core.common import distutils
    from fairchem.core.launchers.api import RunType
    from fairchem.core.launchers.slurm_launch import SlurmSPMDProgram
    from omegaconf import OmegaConf

    from aqvolt_flows.training.checkpoints import StoppedEarly

    class Program(SlurmSPMDProgram):  # type: ignore[misc, unused-ignore]
        """fairchem's program; SIGTERM is left to the checkpoints, which can save on it."""

        def _register_signal_handlers(self) -> None:
            pass

    logging.basicConfig(level=logging.INFO)
    config = get_hydra_config_from_yaml(config_file, [])
    if config.job.scheduler.num_nodes * config.job.scheduler.ranks_per_node == 1:
        for name in _RENDEZVOUS:
            os.environ.pop(name, None)
    Path(config.job.metadata.log_dir).mkdir(parents=True, exist_ok=True)
    if os.environ.get("RANK", "0") == "0":
        OmegaConf.save(config, config.job.metadata.config_path)
    try:
        Program()(config, RunType.RUN)
    except StoppedEarly:
        distutils.cleanup()


if __name__ == "__main__":
    main(sys.argv[1])
