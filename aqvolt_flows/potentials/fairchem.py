"""Checkpoints trained with fairchem-core (eSEN, UMA and their relatives), by path.

fairchem calls a level of theory a task. A checkpoint with one is ``fairchem:PATH``; one with several needs its name,
``fairchem:PATH#omat``.
"""

from __future__ import annotations

import pickle
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.checkpoints import check_config, check_names, parse_name
from aqvolt_flows.potentials.neighbors import NeighborOptions
from aqvolt_flows.potentials.torchsim import TorchSimPotential

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

NEEDED = {"energy", "forces", "stress"}


#: What an inference checkpoint of fairchem-core 2.24 consists of, beyond tensors and Python's own containers.
CONSISTS_OF = (
    "fairchem.core.units.mlip_unit.api.inference.MLIPInferenceCheckpoint",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
    "collections.defaultdict",
    "builtins.dict",
    "builtins.int",
    "builtins.list",
)
_UMA = "fairchem.core.models.uma"
_UNIT = "fairchem.core.units.mlip_unit.mlip_unit"
_NORMALIZATION = "fairchem.core.modules.normalization"
#: What hydra may call for its configuration: the model, its tasks, and the tensors of its element references.
CALLS = frozenset(
    {
        "fairchem.core.models.base.HydraModel",
        "fairchem.core.models.base.HydraModelV2",
        f"{_UNIT}.Task",
        f"{_UNIT}.OutputSpec",
        f"{_NORMALIZATION}.normalizer.Normalizer",
        f"{_NORMALIZATION}.element_references.ElementReferences",
        *(
            f"fairchem.core.modules.loss.{name}"
            for name in ("DDPMTLoss", "DDPLoss", "MAELoss", "MSELoss", "PerAtomMAELoss", "L2NormLoss")
        ),
        "torch.DoubleTensor",
        "torch.FloatTensor",
        *(f"{_UMA}.escn_md.{name}" for name in ("eSCNMDBackbone", "MLP_EFS_Head", "MLP_Energy_Head")),
        *(f"{_UMA}.escn_md.{name}" for name in ("Linear_Energy_Head", "Linear_Force_Head", "MLP_Stress_Head")),
        f"{_UMA}.escn_moe.eSCNMDMoeBackbone",
        f"{_UMA}.escn_moe.DatasetSpecificMoEWrapper",
        f"{_UMA}.escn_moe.DatasetSpecificSingleHeadWrapper",
    }
)
#: Keys under which fairchem's models load another checkpoint, unseen by any check here.
_LOADS_MORE = ("finetune_config",)


class FairChemPotential(TorchSimPotential):
    """A conservative fairchem checkpoint.

    Raises
    ------
    InputError
        On first use, if the file is no inference checkpoint, one without energy, forces and stress, or one whose
        loading would run anything else than fairchem's model and tasks.
    """

    def __init__(self, name: str, device: str, dtype: str = "float32") -> None:
        super().__init__(name, device, dtype)
        given = parse_name(name.removeprefix("fairchem:"))
        self._path, self._named = given.path, given.channel

    @cached_property
    def _model(self) -> Any:
        return self.build(None, None)

    @property
    def task(self) -> str:
        """Name of the task: the one that was named, or the only one of the checkpoint."""
        return str(self._model.task_name)

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers with an element reference; all up to 100 where the checkpoint has none."""
        task = next(t for t in self._model.predictor.dataset_to_tasks[self.task] if t.property == "energy")
        references = task.element_references
        if references is None:
            return frozenset(range(1, 101))
        values = references.element_references.tolist()
        return frozenset(z for z, energy in enumerate(values) if z and energy != 0.0)

    def build(self, _neighbors: NeighborOptions | None, _max_atoms_per_call: int | None) -> Any:
        """See :class:`TorchSimPotential`; fairchem makes its own graphs."""
        import torch
        from torch_sim.models.fairchem import FairChemModel

        check_contents(self._path)
        try:
            model = FairChemModel(
                model=str(self._path),
                device=torch.device(self.device),
                dtype=self.dtype,
                compute_stress=True,
            )
        # what torch.load and hydra raise on files that are none, are cut short, or hold something else
        except (
            RuntimeError,
            KeyError,
            AttributeError,
            EOFError,
            OSError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            raise _no_checkpoint(self._path, error) from error
        # Set here and not above: fairchem's class takes only names of UMA's tasks, its predictor takes every name.
        model.task_name = task = choose_task(self._path, list(model.predictor.dataset_to_tasks), self._named)
        properties = {t.property for t in model.predictor.dataset_to_tasks[task]}
        if not properties >= NEEDED:
            seen = ", ".join(sorted(properties)) or "nothing"
            raise InputError(
                f"{self._path} predicts {seen}; expected energy, forces and stress: give a conservative stage's "
                "inference_ckpt.pt."
            )
        return model

    def torchsim_model(
        self,
        neighbors: NeighborOptions | None = None,  # noqa: ARG002 - fairchem finds neighbors itself
        max_atoms_per_call: int | None = None,  # noqa: ARG002
    ) -> Any:
        """Return the torch-sim model, always the same one."""
        return self._model

    def ase_calculator(self) -> Calculator:
        """Return fairchem's ASE calculator, on the weights that are loaded already."""
        from fairchem.core import FAIRChemCalculator

        return FAIRChemCalculator(self._model.predictor, task_name=self.task)


def choose_task(path: Path, known: list[str], named: str | None) -> str:
    """Return the task to compute with: the named one, or the only one.

    Raises
    ------
    InputError
        If the checkpoint has no such task, or several and none was named: they are different levels of theory.
    """
    if named in known:
        return str(named)
    if named is None and len(known) == 1:
        return known[0]
    seen = f"has the tasks {', '.join(known)}" if known else "has no task"
    wanted = f"and not {named!r}" if named else "and none was named"
    example = f"name one as in fairchem:{path}#{known[0]}" if known else "give an inference_ckpt.pt"
    raise InputError(f"{path} {seen} {wanted}; {example}.")


def check_contents(path: Path) -> None:
    """Raise unless unpickling a checkpoint, and what hydra makes of it, run nothing but :data:`CALLS`."""
    import torch

    check_names(path, CONSISTS_OF, "fairchem")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=False, mmap=True)  # its names are checked  # nosec B614
        configs = (loaded.model_config, loaded.tasks_config)
    except (RuntimeError, AttributeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise _no_checkpoint(path, error) from error
    for config in map(_plain, configs):
        check_config(path, config, CALLS)
        more = [key for key in _LOADS_MORE if isinstance(config, dict) and config.get(key) is not None]
        if more:
            raise InputError(
                f"The configuration inside {path} loads another checkpoint ({more[0]}); give the inference_ckpt.pt "
                "of a finished training instead."
            )


def _plain(config: Any) -> Any:
    from omegaconf import OmegaConf

    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=False)
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items()}
    return [_plain(value) for value in config] if isinstance(config, list | tuple) else config


def _no_checkpoint(path: Path, error: Exception) -> InputError:
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return InputError(f"{path} is not an inference checkpoint ({why}); give a conservative stage's inference_ckpt.pt.")


def load(model: str, device: str, dtype: str = "float32") -> FairChemPotential:
    """Return the potential for a model string."""
    return FairChemPotential(model, device, dtype)
