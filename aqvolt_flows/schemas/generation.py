"""Parameters of making structures: lithiation and substitution (section 2.1), and the relaxation that both use.

Where the paper gives no value the description says so, and the value is a choice of this project.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.parameters import Strictly

Halogen = Literal["F", "Cl", "Br", "I"]


class RelaxationParameters(Parameters):
    """FIRE on positions and cell with a potential; the tolerance and the optimizer are those of section 2.4."""

    potential: str = Field(default="7net-mf-0/R2SCAN", description="Model string; the paper's is not public by name.")
    force_tolerance_ev_per_a: Strictly = Field(default=0.05, description="Of atoms and cell (2.4's relaxations).")
    max_steps: PositiveInt = Field(
        default=500, description="Steps of FIRE. The paper does not say; this value is our choice."
    )
    max_volume_ratio: float = Field(
        default=2.0, gt=1, allow_inf_nan=False, description="Volume over start, or start over volume, that ends a run."
    )
    max_batch_atoms: PositiveInt = Field(default=4096, description="Atoms relaxed together.")


class MinimumParameters(Parameters):
    """Displacements that break the symmetry of a start, and that check what it relaxed to.

    The paper does not say how its structures were kept from saddle points; all values are our choice.
    """

    n_rattles: int = Field(default=2, ge=0, description="Displaced copies relaxed beside every start; 0: none.")
    rattle_a: Strictly = Field(
        default=0.1, le=0.5, description="Å; standard deviation of each component of a displacement."
    )
    max_checks: int = Field(
        default=3, ge=0, description="How often what is kept is displaced and relaxed again while it falls; 0: never."
    )
    check_rattle_a: Strictly = Field(default=0.05, le=0.5, description="Å; standard deviation in a check.")
    same_within_ev_per_atom: Strictly = Field(
        default=0.002, description="eV/atom; a structure that falls by no more is the same minimum."
    )
    seed: int = Field(default=0, ge=0, description="Of all displacements.")

    @property
    def off(self) -> bool:
        """Whether nothing is displaced."""
        return self.n_rattles == 0 and self.max_checks == 0


class LithiationParameters(Parameters):
    """Stuffing empty hosts with Li (section 2.1)."""

    densities: list[Literal["files", "bucket", "promolecular"]] = Field(
        default=["files", "bucket"],
        min_length=1,
        description="Where charge densities come from, in this order. The paper uses the Materials Project's AECCARs; "
        "promolecular (superposed free atoms) is not the paper's.",
    )
    aeccar_folder: str | None = Field(
        default=None,
        description="Folder with one folder per host (candidate_id, name or MP id) of AECCAR0 and AECCAR2.",
    )
    cell: Literal["primitive", "given"] = Field(
        default="primitive",
        description="Li are inserted into the primitive cell of the host, whatever cell it or its density is given in, "
        "or into the given one. The paper does not say; this value is our choice.",
    )
    clustering_tol_a: Strictly = Field(default=0.5, description="Å; minima closer than this are one site.")
    min_distance_a: Strictly = Field(default=0.9, description="Å; sites closer to a host atom are none.")
    average_radius_a: Strictly = Field(default=0.4, description="Å; sphere over which the charge is averaged.")
    max_average_charge: Strictly = Field(default=1.0, description="electrons/Å³; sites above are none.")
    ltol: Strictly = Field(
        default=0.2, description="StructureMatcher's default, for sites and for the topotactic check."
    )
    stol: Strictly = Field(default=0.3, description="StructureMatcher's default.")
    angle_tol: Strictly = Field(default=5.0, description="StructureMatcher's default, degrees.")
    promolecular_spacing_a: Strictly = Field(default=0.15, description="Å; grid of a promolecular density.")
    min_li_distance_a: Strictly = Field(
        default=2.0,
        description="Å; two Li are never inserted closer. The paper does not say; this value is our choice.",
    )
    max_configurations: PositiveInt = Field(
        default=64,
        description="Configurations relaxed at each step, those at the lowest charge first. The paper does not say; "
        "this value is our choice.",
    )
    max_li: PositiveInt | None = Field(
        default=None, description="Li per cell at most; default: what the metals pay for."
    )
    keep: Literal["fullest", "every_step"] = Field(
        default="fullest",
        description="The fullest content that stays topotactic, or every content. The paper does not say; this value "
        "is our choice.",
    )
    min_voltage_v: float | None = Field(
        default=0.0,
        allow_inf_nan=False,
        description="V against Li metal of the same potential, averaged over the Li added since the last content that "
        "is kept; below, Li would rather plate. None: no limit. The paper does not say; this value is our choice.",
    )
    max_volume_change: Strictly | None = Field(
        default=0.3,
        description="Of the volume of the relaxed empty host, up or down; None: no limit. The paper does not say; this "
        "value is our choice.",
    )
    max_displacement_a: Strictly | None = Field(
        default=1.0,
        description="Å; of a host atom at equal volume; None: no limit but stol. The paper does not say; this value "
        "is our choice.",
    )
    max_bond_stretch: Strictly | None = Field(
        default=0.4,
        description="Of a bond between a cation and its nearest anions in the relaxed empty host; a longer one is "
        "broken. None: no limit. The paper does not say; this value is our choice.",
    )
    min_relaxed_li_distance_a: Strictly | None = Field(
        default=2.5,
        description="Å between relaxed Li; they are 2.84 Å apart in LiF. None: no limit. The paper does not say; this "
        "value is our choice.",
    )
    minima: MinimumParameters = MinimumParameters()
    relaxation: RelaxationParameters = RelaxationParameters()
    hosts_per_job: PositiveInt = Field(default=16, description="Hosts lithiated by one Firework.")

    @model_validator(mode="after")
    def _files_have_a_folder(self) -> LithiationParameters:
        if self.densities == ["files"] and self.aeccar_folder is None:
            raise ValueError("densities are files only, and aeccar_folder is not set; name the folder")
        return self


class SubstitutionParameters(Parameters):
    """Replacing a halogen by another one in the whole structure (section 2.1)."""

    parents: list[Literal["matpes", "stuffed", "user"]] = Field(
        default=["stuffed"], min_length=1, description="Sources of the accepted candidates that are substituted."
    )
    aimd_parents: list[Literal["matpes", "stuffed", "user"]] = Field(
        default_factory=list,
        description="Sources whose accepted candidates are substituted too, but for ab-initio MD only (2.2).",
    )
    from_halogens: list[Halogen] = Field(default=["F"], min_length=1, description="F is the majority (2.1).")
    to_halogens: list[Halogen] = Field(default=["Cl", "Br", "I"], min_length=1)
    per_parent: PositiveInt = Field(
        default=3, description="Halogens tried per parent; fewer than all: the least represented of the pool first."
    )
    fractions: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[1.0],
        min_length=1,
        description="Shares of the halogen's sites that are replaced. Below 1: ordered mixtures in the parent's cell, "
        "which the paper does not make.",
    )
    max_orderings: PositiveInt = Field(
        default=16, description="Ordered mixtures relaxed for one substitution; the lowest in energy is kept."
    )
    max_e_above_hull_ev: float = Field(default=0.05, ge=0, description="eV/atom; above is discarded.")
    reference: Literal["potential", "r2scan"] = Field(
        default="potential",
        description="potential: energies and hull from the relaxing potential. r2scan: both from r2SCAN calculations.",
    )
    reference_entries: str | None = Field(
        default=None, description="JSON (.gz) of computed entries with structures: the hull's phases."
    )
    energies: str | None = Field(
        default=None, description="With reference r2scan: JSON (.gz) of r2SCAN entries of the substituted structures."
    )
    minima: MinimumParameters = MinimumParameters()
    relaxation: RelaxationParameters = RelaxationParameters()
    parents_per_job: PositiveInt = Field(default=32, description="Parents substituted by one Firework.")

    @property
    def only_aimd(self) -> list[str]:
        """Sources whose substituted structures are for ab-initio MD alone."""
        return [source for source in self.aimd_parents if source not in self.parents]
