"""Whatever people have as a model, as a potential: a model string, an ASE calculator, a torch-sim model.

Makers take all three. A job with a calculator or model object runs where it was made (``run_locally``); to be stored
in a LaunchPad an ASE calculator must be one that can be made again from its parameters, as ASE's own can,
or be described by :class:`CalculatorRecipe`; a worker that finds neither says so.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from monty.json import MSONable

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.registry import Evaluation, Potential, load_potential, model_hash
from aqvolt_flows.potentials.trained import is_folder
from aqvolt_flows.schemas.provenance import Failure

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

EXPECTED = "expected a model string such as '7net-mf-0/R2SCAN', an ASE calculator, or a torch-sim model"
#: Models given as objects in this process, by token.
_LIVE: dict[str, Any] = {}
_PROCESS = uuid.uuid4().hex[:12]
#: Arguments of ASE's own calculators that say where files go, not what is computed.
_NOT_PHYSICS = {"self", "restart", "ignore_bad_restart_file", "label", "atoms", "directory", "kwargs"}


@dataclass
class CalculatorRecipe(MSONable):
    """How to make an ASE calculator, wherever a job runs.

    Parameters
    ----------
    maker
        ``module:callable``, e.g. ``chgnet.model.dynamics:CHGNetCalculator``.
    arguments
        Keyword arguments, plain values.

    Examples
    --------
    >>> CalculatorRecipe("ase.calculators.lj:LennardJones", {"sigma": 3.4}).make().parameters["sigma"]
    3.4
    """

    maker: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def make(self) -> Calculator:
        """Return a new calculator.

        Raises
        ------
        InputError
            If the module or callable is not there, or refuses the arguments.
        """
        module, _, name = self.maker.partition(":")
        try:
            made: Calculator = getattr(importlib.import_module(module), name)(**self.arguments)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"The calculator {self.maker!r} cannot be made ({type(error).__name__}: {error}); expected "
                "'module:callable' and the arguments it takes."
            ) from None
        return made

    @classmethod
    def of(cls, calculator: Calculator) -> Self:
        """Return the recipe of a calculator that its parameters describe in full.

        Raises
        ------
        InputError
            If they do not: then give a recipe, or a model string.
        """
        kind = type(calculator)
        parameters = dict(getattr(calculator, "parameters", {}) or {})
        taken = set(inspect.signature(kind.__init__).parameters) - _NOT_PHYSICS
        maker = f"{kind.__module__}:{kind.__qualname__}"
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in parameters.items()}
        if taken <= parameters.keys() and kind.__module__ != "__main__":
            try:
                again = kind(**plain)
            except Exception:  # noqa: BLE001 - whatever a foreign constructor raises, the recipe does not work
                again = None
            if again is not None and dict(again.parameters) == parameters:
                return cls(maker, plain)
        raise InputError(
            f"The calculator {kind.__name__} cannot be stored: its parameters do not say how it was made. Give "
            f"CalculatorRecipe({maker!r}, {{…}}) with the arguments, or a model string."
        )


class GivenModel(MSONable):
    """A calculator or torch-sim model as a job's argument: used as it is in this process, stored as a recipe.

    Parameters
    ----------
    model
        What was given.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe of an ASE calculator where there is one, else a token for the object in this process.

        jobflow asks for this also when a job runs where it was made, so it does not raise.
        """
        if _is_calculator(self.model):
            with contextlib.suppress(InputError):
                return CalculatorRecipe.of(self.model).as_dict()
        token = f"{_PROCESS}-{id(self.model)}"
        _LIVE[token] = self.model
        return {"@module": type(self).__module__, "@class": type(self).__name__, "token": token, "what": self.what}

    @property
    def what(self) -> str:
        """Class of the model, for messages."""
        return f"{type(self.model).__module__}:{type(self.model).__qualname__}"

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Return the object that a token of this process means.

        Raises
        ------
        InputError
            In another process: the object is not there.
        """
        if d["token"] not in _LIVE:
            raise InputError(
                f"The model {d['what']} was given as an object in another process, and cannot be stored with its job; "
                f"give a model string, or CalculatorRecipe({d['what']!r}, {{…}}) with the arguments that make it."
            )
        return cls(_LIVE[d["token"]])


Model = str | CalculatorRecipe | Any


def storable(model: Any) -> Any:
    """Return a model as a job's argument: a string or recipe as it is, an object wrapped.

    Raises
    ------
    InputError
        If it is no model.
    """
    if isinstance(model, PurePath):
        if not is_folder(str(model)):
            raise InputError(f"A path was given as model; write it as a model string, 'fairchem:{model}'.")
        return str(model)
    if model is None or isinstance(model, str | CalculatorRecipe | GivenModel) or hasattr(model, "uuid"):
        return model
    if _is_calculator(model) or _is_torchsim(model) or _is_potential(model):
        return GivenModel(model)
    raise InputError(f"A {type(model).__name__} was given as model; {EXPECTED}.")


def is_model(given: Any) -> bool:
    """Return whether :func:`as_potential` takes it."""
    plain = isinstance(given, str | CalculatorRecipe | GivenModel)
    return plain or _is_calculator(given) or _is_torchsim(given) or _is_potential(given)


def check_model_given(model: Any) -> None:
    """Raise unless ``model`` is something that :func:`as_potential` takes; None is a reference and passes.

    Raises
    ------
    InputError
        For anything else, and for a model string that no family knows.
    """
    storable(model)
    if isinstance(model, str | PurePath):
        model_hash(str(model))


def as_potential(model: Any, device: str = "cpu") -> Potential:
    """Return a potential for a model string, an ASE calculator, a recipe, a torch-sim model, or a potential.

    Parameters
    ----------
    model
        See the module.
    device
        torch device for model strings.

    Raises
    ------
    InputError, ResourceError
        If it is something else, or cannot be loaded.
    """
    if isinstance(model, GivenModel):
        model = model.model
    if isinstance(model, CalculatorRecipe):
        model = model.make()
    if isinstance(model, PurePath):
        model = storable(model)
    if isinstance(model, str):
        return load_potential(model, device)
    if _is_calculator(model):
        return CalculatorPotential(model)
    if _is_torchsim(model):
        from aqvolt_flows.potentials.given_torchsim import ModelPotential

        return ModelPotential(model)
    if _is_potential(model):
        found: Potential = model
        return found
    raise InputError(f"A {type(model).__name__} was given as model; {EXPECTED}.")


def ase_calculator(model: str, device: str = "auto", default_dtype: str = "float32") -> Calculator:
    """Return the ASE calculator of a model string: what other packages' benchmarks take.

    The arguments are called as ml-peg's ``models.yml`` calls them (docs/benchmarks.md).

    Parameters
    ----------
    model
        Model string, e.g. ``fairchem:PATH``.
    device
        torch device; ``auto``: a GPU where there is one.
    default_dtype
        ``float32`` or ``float64``.

    Raises
    ------
    InputError, ResourceError
        As :func:`~aqvolt_flows.potentials.registry.load_potential`.
    """
    return load_potential(model, resolve_device(device), default_dtype).ase_calculator()


def resolve_device(device: str = "auto") -> str:
    """Return a torch device for a maker's field: ``auto`` is the first GPU where there is one, else the CPU."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def given_hash(model: Any) -> str | None:
    """Return the SHA-256 of a model string's weights; None for models given as objects or recipes."""
    return model_hash(model) if isinstance(model, str) else None


def trial_failure(potential: Potential, atoms: Atoms) -> Failure | None:
    """Return why a given model cannot compute a structure, or None.

    Only calculators and torch-sim models are tried: they do not say which elements they know, they raise, and would
    take the batch's other structures with them. Potentials of the registry say it (``elements``).
    """
    if getattr(potential, "says_elements", True):
        return None
    try:
        found = potential.evaluate([atoms])[0]
    except Exception as error:  # noqa: BLE001 - whatever a foreign model raises for a structure is that structure's failure
        said = " ".join(str(error).split())[:300]
        return Failure(reason="model_error", message=f"{potential.name}: {type(error).__name__}: {said}")
    if not (np.isfinite(found.energy) and np.isfinite(found.forces).all() and np.isfinite(found.stress).all()):
        said = f"{potential.name} gives an energy, forces or a stress that are not finite"
        return Failure(reason="model_error", message=said)
    return None


def model_name(model: Any) -> str:
    """Return what documents call a model: the string, or the class of a calculator or torch-sim model."""
    if isinstance(model, GivenModel):
        model = model.model
    if isinstance(model, str):
        return model
    if isinstance(model, CalculatorRecipe):
        return f"ase:{model.maker.partition(':')[2]}"
    prefix = "ase" if _is_calculator(model) else "torch-sim"
    return f"{prefix}:{type(model).__name__}"


class CalculatorPotential:
    """A potential on an ASE calculator, one system after another.

    Parameters
    ----------
    calculator
        Must give energy, forces and stress.
    name
        Of the potential; default: the class of the calculator.
    """

    device = "cpu"
    #: An ASE calculator does not say which elements it knows; see :func:`trial_failure`.
    says_elements = False

    def __init__(self, calculator: Calculator, name: str | None = None) -> None:
        self._calculator = calculator
        self.name = name or model_name(calculator)

    @property
    def elements(self) -> frozenset[int]:
        """All: an ASE calculator does not say which elements it knows, it raises."""
        return frozenset(range(1, 119))

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:  # noqa: ARG002
        """Return one evaluation per system, in order; what the calculator raises is raised."""
        results = []
        for system in systems:
            atoms: Any = system.copy()
            atoms.calc = self._calculator
            energy = float(atoms.get_potential_energy())
            forces = np.array(atoms.get_forces(), dtype=np.float64)
            results.append(Evaluation(energy, forces, np.array(atoms.get_stress(voigt=True), dtype=np.float64)))
        return results

    def ase_calculator(self) -> Calculator:
        """Return the calculator."""
        return self._calculator

    def calculator(self) -> Calculator:
        """Return the calculator."""
        return self._calculator

    def torchsim_model(self, neighbors: Any = None, max_atoms_per_call: int | None = None) -> Any:  # noqa: ARG002
        """Return a torch-sim model that asks the calculator for one system after another."""
        from aqvolt_flows.potentials.given_torchsim import CalculatorModel

        return CalculatorModel(self)


def _is_calculator(model: Any) -> bool:
    if isinstance(model, type):
        return False
    return hasattr(model, "get_potential_energy") and hasattr(model, "calculate")


def _is_torchsim(model: Any) -> bool:
    return any(c.__module__.startswith("torch_sim") and c.__name__ == "ModelInterface" for c in type(model).__mro__)


def _is_potential(model: Any) -> bool:
    return not isinstance(model, Mapping | type) and all(
        hasattr(model, n) for n in ("evaluate", "torchsim_model", "elements")
    )
