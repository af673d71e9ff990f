"""Entry point for ``torchrun``: fairchem's trainer on several ranks of one machine.

fairchem's own local launcher spawns its ranks, which LMDB data loaders with workers do not survive.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path


def main(config_file: str) -> None:
    """Run the training that a configuration file describes, as one rank of those that torchrun started."""
    from fairchem.core._cli import get_hydra_config_from_yaml
    from fairchem.core.launchers.slurm_launch import runner_wrapper
    from omegaconf import OmegaConf

    logging.basicConfig(level=logging.INFO)
    config = get_hydra_config_from_yaml(config_file, [])
    Path(config.job.metadata.log_dir).mkdir(parents=True, exist_ok=True)
    if os.environ.get("RANK", "0") == "0":
        OmegaConf.save(config, config.job.metadata.config_path)
    runner_wrapper(config)


if __name__ == "__main__":
    main(sys.argv[1])
