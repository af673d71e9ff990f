"""Scientific parameters, one group per stage; a campaign file is these groups and nothing else.

Defaults are the paper's (AQVolt26, sections in the descriptions). Where the paper is silent the
description says so, and the value is a choice of this project that a campaign may change.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from aqvolt_flows.schemas.base import Element, Parameters

#: Ends the description of a value that the paper leaves open.
OURS = "The paper does not say; this value is our choice."
Strictly = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Temperature = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False, strict=True)]


class Site(Parameters):
    """One occupied site of the asymmetric unit."""

    element: Element
    xyz: tuple[float, float, float] = Field(description="Fractional coordinates.")


class Prototype(Parameters):
    """A structure given by published lattice data."""

    name: str
    spacegroup: str = Field(description="Hermann-Mauguin symbol of the setting used, e.g. Fm-3m, P2_1/c.")
    a: Strictly = Field(description="Å.")
    b: Strictly | None = Field(default=None, description="Å; a where absent.")
    c: Strictly | None = Field(default=None, description="Å; a where absent.")
    alpha: Strictly = Field(default=90.0, description="degrees.")
    beta: Strictly = Field(default=90.0, description="degrees.")
    gamma: Strictly = Field(default=90.0, description="degrees.")
    sites: list[Site] = Field(min_length=1)
    primitive: bool = Field(default=False, description="Reduce to the primitive cell.")
    references: list[str] = Field(min_length=1, description="DOIs or citations of the numbers.")


class DuplicateParameters(Parameters):
    """When two structures are one: pymatgen's ``StructureMatcher`` at its defaults, which section 2.1 uses."""

    ltol: float = Field(default=0.2, gt=0, lt=1, description="Fractional length tolerance.")
    stol: float = Field(default=0.3, gt=0, lt=1, description="Site tolerance, in (volume/atoms)^(1/3).")
    angle_tol: float = Field(default=5.0, gt=0, lt=90, description="Angle tolerance, degrees.")
    scale: bool = Field(default=True, description="Compare at equal volume; NpT finds the volume anyway.")


class HostParameters(Parameters):
    """Which structures are empty hosts, fit to take up Li (section 2.1)."""

    exclude_elements: list[Element] = Field(default=["Li"], description="None may be present.")
    require_any_of: list[Element] = Field(default=["F", "Cl", "Br", "I"], description="At least one, as an anion.")
    redox_metals: list[Element] = Field(
        default=["Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Nb", "Mo", "Ru", "Ag", "W", "Re", "Sb", "Bi"],
        description="At least one must be present.",
    )
    max_e_above_hull_ev: float = Field(default=0.05, ge=0, description="eV/atom; at or above stays out.")
    unknown_hull: Literal["reject", "accept"] = Field(
        default="reject",
        description="What becomes of a host whose energy above the hull is not known. The paper's hosts all have one.",
    )
    exclude_radioactive: bool = True
    exclude_noble_gases: bool = True


class CandidateParameters(Parameters):
    """Which structures enter (section 2.1)."""

    prototypes: list[Prototype] = Field(default_factory=list)
    require_elements: list[Element] = Field(default=["Li"], description="Every one must be present.")
    require_any_of: list[Element] = Field(default=["F", "Cl", "Br", "I"], description="At least one must be present.")
    exclude_elements: list[Element] = Field(default=["O"], description="Oxyhalides were deprioritized (2.1).")
    exclude_radioactive: bool = True
    exclude_noble_gases: bool = True
    hosts: HostParameters = HostParameters()
    duplicates: DuplicateParameters = DuplicateParameters()


class ExplorationParameters(Parameters):
    """NpT ML molecular dynamics (section 2.1)."""

    potential: str = Field(default="7net-mf-0/R2SCAN", description="Model string; the paper's is not public by name.")
    temperatures_k: list[Temperature] = Field(default=[300.0, 600.0, 900.0, 1200.0, 1500.0], min_length=1)
    pressure_gpa: float = Field(
        default=1.01325e-4, ge=-100, le=1000, allow_inf_nan=False, strict=True, description="1 atm."
    )
    timestep_fs: float = Field(default=1.0, gt=0, le=10, strict=True, description="Above 10 fs light atoms blow up.")
    n_steps: PositiveInt = Field(default=50_000, description="50 ps at 1 fs.")
    stride: PositiveInt = Field(default=6, description="200 M frames of 1.23e9 steps: about every 6th is written.")
    ensemble: Literal["npt_nose_hoover_isotropic", "npt_crescale_isotropic", "npt_crescale_full"] = Field(
        default="npt_crescale_isotropic",
        description=f"{OURS} Nosé–Hoover rings in small cells; see docs/exploration.md.",
    )
    thermostat_tau_fs: Strictly = Field(default=100.0, description=f"Thermostat time constant. {OURS}")
    barostat_tau_fs: Strictly = Field(default=1000.0, description=f"Barostat time constant. {OURS}")
    compressibility_per_gpa: Strictly = Field(
        default=0.2,
        description="C-rescale's estimate. Volumes relax in barostat_tau_fs times the true value over this: at 0.2 a "
        f"crystal (0.02-0.06) in a fifth of that time, and a melt in about that time. {OURS}",
    )
    equilibration_ps: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Start of a run, with C-rescale and a thermostat ten times as fast, whose frames are marked; none: "
        f"1 ps, or a fifth of a shorter run. {OURS}",
    )
    min_length_a: float = Field(
        default=0.0, ge=0, le=100, description=f"Supercells at least this long; 0: as given. {OURS}"
    )
    seed: int = Field(default=0, ge=0)
    max_volume_ratio: float = Field(
        default=3.0,
        ge=0,
        allow_inf_nan=False,
        description="V/V₀ above, or its inverse, ends a run: vaporized, collapsed; 0: not looked at. A molten lithium "
        f"halide at 1500 K is near 1.6. {OURS}",
    )
    min_packing: float = Field(
        default=0.05, ge=0, lt=1, description=f"A smaller share of the volume in covalent spheres ends a run. {OURS}"
    )
    max_volume_change: float | None = Field(
        default=None,
        gt=0,
        description="|ΔV|/V₀ that ends a run; none: not looked at. 0.5 is the failure of the stability test (2.4).",
    )
    max_force_ev_per_a: Strictly = Field(default=800.0, description="Forces above end a run; 2.3's label limit.")
    lost_atom_cutoff_a: float = Field(
        default=6.0, ge=0, le=20, description=f"An atom with no other within this ends a run; 0: not looked for. {OURS}"
    )
    max_force_sigma_ev_per_a: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="σ_F of an atom, of a committee, above which a run is uncertain; none: not looked at.",
    )
    uncertain_steps: PositiveInt = Field(
        default=10, description=f"Steps in a row that are uncertain end a run, its frames up to there are kept. {OURS}"
    )
    min_distance_factor: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Structures with a pair closer than this times the covalent radii are refused.",
    )
    max_batch_atoms: PositiveInt = Field(
        default=4096, description="Atoms integrated together; fewer where the device's memory holds fewer."
    )
    max_job_atoms: PositiveInt | None = Field(
        default=None, description="Atoms of one Firework, those beyond a batch wait for room; none: max_batch_atoms."
    )
    checkpoint_steps: PositiveInt = Field(default=500, description="Steps between checkpoints.")
    deterministic: bool = Field(
        default=False,
        description="The same bits from the same input on a GPU, too, at a cost; on a CPU it is always so.",
    )

    @property
    def equilibration_steps(self) -> int:
        """Steps of the equilibration."""
        if self.equilibration_ps is None:
            return min(round(1000 / self.timestep_fs), self.n_steps // 5)
        return round(1000 * self.equilibration_ps / self.timestep_fs)

    @model_validator(mode="after")
    def _equilibration_within_the_run(self) -> ExplorationParameters:
        if self.equilibration_ps and self.equilibration_steps >= self.n_steps:
            raise ValueError(
                f"equilibration_ps = {self.equilibration_ps:g} is {self.equilibration_steps} steps of "
                f"{self.timestep_fs:g} fs, and the run has n_steps = {self.n_steps}: nothing would be left to sample. "
                "Make the run longer or the equilibration shorter."
            )
        return self


class SamplingParameters(Parameters):
    """Encoding and 2DIRECT (section 2.1)."""

    encoder: str = Field(
        default="chgnet/r2scan", description="Or m3gnet:PATH, fairchem:PATH. The paper's is a pre-trained M3GNet."
    )
    encode_stride: PositiveInt = Field(default=1, description="Encode every n-th written frame. Paper: about 24th.")
    structure_threshold: Strictly = Field(default=0.1, description="BIRCH threshold, structural space (2.1).")
    atom_threshold: Strictly = Field(default=0.1, description="BIRCH threshold, atomic space (2.1).")
    k: PositiveInt = Field(default=1, description="Rows per cluster. Silent; maml's default.")
    weight_components: bool = Field(default=True, description="Weight PCs by explained variance ratio, as maml does.")
    seed: int = Field(default=0, ge=0)
    stage1: Literal["partition", "selection"] = Field(
        default="partition", description=f"{OURS} partition: every structure takes part in stage 2."
    )
    stage2: Literal["per_cluster", "global"] = Field(
        default="per_cluster",
        description=f"{OURS} Atoms of each structural cluster by themselves, or all in one space.",
    )
    pick: Literal["nearest", "smallest"] = Field(default="nearest", description=f"{OURS} Which atom of a cluster wins.")
    order: Literal["given", "shuffled"] = Field(default="given", description=f"{OURS} How rows enter the CF tree.")
    scaling: Literal["standard", "robust"] = Field(
        default="standard",
        description="Columns over their standard deviation, as in maml; or over that of values drawn back to limits, "
        "so that a few wild rows do not make all others one.",
    )
    search: Literal["beam", "exact"] = Field(
        default="beam", description=f"{OURS} How a row finds its cluster where there are more than 4,096."
    )
    beam: PositiveInt = Field(default=16, description="Boxes followed per level; more finds the nearest more often.")
    engine: Literal["auto", "cpu", "torch", "sklearn"] = Field(
        default="cpu",
        description="What selects; the same within a tolerance. auto: torch where there is a GPU. sklearn: the "
        "reference, for up to 50,000 atoms.",
    )
    min_distance_factor: float = Field(
        default=0.5, ge=0, le=1, description="Frames with a pair closer than this times the covalent radii are dropped."
    )
    max_volume_ratio: float = Field(
        default=3.0,
        ge=0,
        description="Volume per atom over that of the first frame, or its inverse, above: dropped. As in exploration.",
    )
    equilibration: bool = Field(
        default=False, description="Encode the frames of each run's equilibration, too; they are marked."
    )
    min_packing: float = Field(
        default=0.05, ge=0, lt=1, description="Cells with a smaller share in covalent spheres are dropped."
    )
    duplicate_tolerance_a: float = Field(
        default=1e-3, ge=0, description="Å. Frames nearer than this to the one kept before are dropped; 0: keep them."
    )
    max_batch_atoms: PositiveInt = Field(default=4096, description="Atoms encoded together; halved where memory ends.")
    shard_atoms: PositiveInt = Field(default=500_000, description="Atoms of one feature shard (64 features: 128 MB).")
    covered_by: list[str] = Field(
        default_factory=list,
        description="Already covered: labels:SOURCE, release:NAME, or a Parquet file of configurations.",
    )
    space_from: list[str] = Field(
        default_factory=list,
        description="Sets like those of covered_by that only shape the space: a first round over a few systems then "
        "measures with the scale of all that are to come.",
    )
    trajectories_per_job: PositiveInt = Field(default=64, description="Trajectories encoded by one Firework.")

    def first_row(self, n_equilibration_frames: int) -> int:
        """Return where reading a run's frames begins: after its equilibration, unless that is asked for."""
        return 0 if self.equilibration else n_equilibration_frames


class LabelingParameters(Parameters):
    """Single points (section 2.2)."""

    labeler: str = Field(default="vasp", description="vasp, gpaw, surrogate, or a labeler of another package.")
    options: dict[str, Any] = Field(default_factory=dict, description="For labelers of other packages.")
    surrogate: str = Field(default="chgnet/r2scan", description="Model string of the surrogate labeler.")
    functional: Literal["r2SCAN"] = "r2SCAN"
    incar_updates: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Changes to MatPESStaticSet; the paper has none. ENAUG 1360 is MatPES' old value.",
    )
    potcar_hashes: dict[str, str] = Field(
        default_factory=dict,
        description="Element → SHA-256 its POTCAR must have (aqvolt doctor shows them); others may be any.",
    )
    max_errors: PositiveInt = Field(default=5, description="Corrections that custodian may try on one run.")
    max_restarts: int = Field(default=1, ge=0, le=10, description="Fresh starts after a signal or a cut file.")
    wall_time_s: PositiveInt | None = Field(default=None, description="Custodian stops VASP shortly before.")
    failure_budget_outcomes: PositiveInt = Field(
        default=20, description=f"Outcomes of one chemical system before its failure budget counts. {OURS}"
    )
    failure_budget_fraction: float = Field(
        default=0.5, gt=0, le=1, description=f"Above this failed fraction a chemical system is paused; 1: never. {OURS}"
    )
    gpaw_ecut_ev: Strictly = Field(default=680.0, description="Plane-wave cutoff of the GPAW labeler.")
    gpaw_kspacing: Strictly = Field(default=0.22, description="1/Å, VASP's definition (with 2π).")
    aimd_label_stride: PositiveInt = Field(
        default=1, description=f"Keep every n-th ionic step of AIMD as a label. {OURS}"
    )
    max_energy_jump_ev: float = Field(
        default=1.0,
        ge=0,
        description="eV/atom that a label may be off from what its frame's potential leads to expect; 0: any.",
    )


class AIMDSystems(Parameters):
    """Which accepted candidates get ab-initio MD (section 2.2); by default all."""

    sources: list[Literal["matpes", "stuffed", "substituted", "user"]] = Field(
        default_factory=list, description="Candidates of these sources. Neither this nor substituted_from: all."
    )
    substituted_from: list[Literal["matpes", "stuffed", "user"]] = Field(
        default_factory=list, description="Substituted candidates whose parents are of these sources, besides."
    )
    require_elements: list[Element] = Field(default_factory=list, description="Every one must be present.")
    exclude_elements: list[Element] = Field(default_factory=list, description="None may be present.")
    max_atoms: PositiveInt | None = Field(default=None, description="Atoms of the cell at most; none: any.")
    query: dict[str, Any] = Field(
        default_factory=dict, description="MongoDB query on candidates that must hold besides, e.g. {chemsys: Cl-Li}."
    )


class AIMDParameters(Parameters):
    """r2SCAN NpT ab-initio MD (section 2.2)."""

    systems: AIMDSystems = AIMDSystems()
    max_systems: PositiveInt | None = Field(
        default=None, description="Candidates at most, those with runs first, then by a hash of their identity."
    )
    temperatures_k: list[Temperature] = Field(default=[300.0, 600.0, 900.0, 1200.0, 1500.0], min_length=1)
    temperatures_per_system: PositiveInt | None = Field(
        default=None, description="Runs of one candidate, its temperatures by a hash of its identity; none: all."
    )
    n_steps: PositiveInt = Field(default=400, description="Less than a picosecond per system (2.2).")
    timestep_fs: float = Field(default=2.0, gt=0, le=10, strict=True)
    timestep_with_hydrogen_fs: float = Field(default=0.5, gt=0, le=10, strict=True)
    friction_per_ps: Strictly = Field(default=10.0, description=f"LANGEVIN_GAMMA. {OURS}")
    lattice_friction_per_ps: Strictly = Field(default=1.0, description=f"LANGEVIN_GAMMA_L. {OURS}")
    lattice_mass: Strictly = Field(default=10.0, description=f"PMASS, amu. {OURS}")
    pressure_gpa: float = Field(default=1.01325e-4, strict=True, description="1 atm.")
    segment_steps: PositiveInt | None = Field(
        default=None, description="Steps of one launch; none: as many as are left. A walltime ends a launch earlier."
    )
    max_segments: PositiveInt = Field(default=20, description="Launches of one run, those that were killed included.")
    keep_orbitals: bool = Field(
        default=False,
        description="Hand WAVECAR on between launches, so that they keep the plane waves of the first (ISTART = 2). "
        "It takes gigabytes. False: each takes those of its cell, and the document says how the energy jumps.",
    )


class ReleaseParameters(Parameters):
    """Filters and splits of a release (section 2.3)."""

    name: str = Field(default="aqvolt", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    max_force_ev_per_a: Strictly = Field(default=800.0, description="Labels above are excluded.")
    max_cohesive_energy_ev: float = Field(default=0.0, description="eV/atom; positive cohesive energies are excluded.")
    duplicate_tolerance_a: float = Field(
        default=1e-3, ge=0, le=1, description=f"Å; labels that agree within this are one; 0: keep all. {OURS}"
    )
    protocol: str | None = Field(default=None, description="Only labels of this protocol (name or protocol_id).")
    train_fraction: float = Field(default=0.90, ge=0, le=1, description="0 for hold-outs only.")
    val_fraction: float = Field(default=0.05, ge=0, lt=1)
    test_fraction: float = Field(default=0.05, ge=0, le=1)
    group_by: Literal["frame", "trajectory", "candidate", "parent", "prototype", "formula", "chemsys"] = Field(
        default="frame", description="The paper's split is by frame; parent is the root of a candidate's lineage."
    )
    query: dict[str, Any] = Field(default_factory=dict, description="MongoDB query; only labels that match it enter.")
    hold_out: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], dict[str, Any]] = Field(
        default_factory=dict,
        description="Name → query: these labels are in no split but a set of their own; a field 'candidate.…' asks "
        "the candidate that the label comes from.",
    )
    is_hold_out: bool = Field(
        default=False,
        exclude_if=lambda value: not value,  # releases that do not ask for it keep their keys
        description="The whole release is one: no training may contain a structure of it. 'hold_out: true' says so.",
    )
    split_salt: str = Field(default="aqvolt26", description="Seeds the hash that assigns groups to splits.")
    exports: list[Literal["aselmdb", "extxyz", "matpes-json"]] = Field(default_factory=list)
    allow_mixed_protocols: bool = False
    head: bool = Field(
        default=False,
        exclude_if=lambda value: not value,  # releases that do not ask for it keep their keys
        description="Give each label its protocol as the column 'head', for models with one head a theory level.",
    )
    license: str = Field(
        default="cc-by-4.0",
        description="License of our own labels, the Hub's identifier; imported ones keep that of their source.",
    )
    published: str | None = Field(
        default=None,
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="Day of publication, for croissant.json; without one it names none, so that equal labels give "
        "equal bytes.",
    )
    creator: str = Field(default="aqvolt-flows", min_length=1, description="Who publishes it, for croissant.json.")
    url: str | None = Field(default=None, description="Where it is published, for croissant.json.")

    @model_validator(mode="before")
    @classmethod
    def _whole_hold_out(cls, values: Any) -> Any:
        """Read ``hold_out: true``, which makes the whole release a hold-out."""
        if isinstance(values, dict) and isinstance(values.get("hold_out"), bool):
            return values | {"hold_out": {}, "is_hold_out": values["hold_out"]}
        return values

    @model_validator(mode="after")
    def _fractions_add_up(self) -> ReleaseParameters:
        total = self.train_fraction + self.val_fraction + self.test_fraction
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, val and test fractions add up to {total:g}; they must add up to 1")
        if not self.train_fraction and not self.is_hold_out:
            raise ValueError("train_fraction is 0; it must be above, unless the release is a hold-out (hold_out: true)")
        if taken := {"train", "val", "test", "all"} & set(self.hold_out):
            raise ValueError(f"a hold-out cannot be called {min(taken)}; give it a name of its own")
        return self


class StageParameters(Parameters):
    """One stage of training (Table S1)."""

    steps: PositiveInt | None = Field(default=None, description="Optimizer steps; exactly one of steps and epochs.")
    epochs: PositiveInt | None = Field(
        default=None, description="The paper does not say; 70 + 30 are those of Meta's public eSEN-30M-MP."
    )
    max_atoms: PositiveInt = Field(description="Most atoms in memory at once on one rank (a micro-batch).")
    ranks: PositiveInt = Field(
        default=1, description="GPUs wanted; with fewer, gradients of several micro-batches are accumulated."
    )
    batch_atoms: PositiveInt | None = Field(
        default=None,
        description="Atoms of one optimizer step, reached by accumulation; none: max_atoms × ranks.",
    )
    activation_checkpointing: bool = Field(
        default=False, description="Recompute edge activations in the backward pass: less memory, more time."
    )
    max_neighbors: PositiveInt
    learning_rate: Strictly
    bf16: bool
    energy_coefficient: PositiveFloat
    force_coefficient: PositiveFloat
    stress_coefficient: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(
        default=0.01,
        ge=0,
        exclude_if=lambda value: value == 0.01,  # trainings from before this field keep their keys
        description=f"Linear warm-up from a fifth of the peak rate, at least one step. {OURS} 0.01: fairchem's UMA "
        "release, whose epochs are far longer.",
    )
    gpu_atoms_per_s: PositiveFloat | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Atoms that one of your GPUs trains on in a second, for the hours of 'aqvolt plan train'; no part "
        "of a training's identity.",
    )

    @model_validator(mode="after")
    def _one_length(self) -> StageParameters:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self


def _unless(default: object) -> Any:
    """Return Field's ``exclude_if`` for a field that trainings from before it did not have: they keep their keys."""
    return lambda value: value == default


Fate = Literal["refuse", "drop"]


class MixturePart(Parameters):
    """One release of a mixture."""

    release: str = Field(min_length=1, description="Name (its newest release), NAME@HASH, or a folder for scripts.")
    weight: Strictly = Field(
        default=1.0,
        description="Times a frame is seen per epoch on average: 2 repeats all, 0.1 draws a tenth anew each epoch.",
    )


class TrainingParameters(Parameters):
    """Two-stage eSEN training (section 2.3, Table S1)."""

    architecture: str = "eSEN-L4"
    n_layers: PositiveInt = 4
    sphere_channels: PositiveInt = 128
    hidden_channels: PositiveInt = Field(default=128, description="Edge channels too.")
    lmax: PositiveInt = 2
    mmax: PositiveInt = 2
    n_distance_basis: PositiveInt = 64
    cutoff_a: Strictly = 6.0
    weight_decay: float = Field(default=1e-3, ge=0)
    clip_grad_norm: Strictly = Field(
        default=100.0, description="fairchem's UMA release; the paper clips and does not say at what norm."
    )
    ema_decay: float = Field(
        default=0.999,
        gt=0,
        lt=1,
        description=f"Of the averaged weights, which are exported: a memory of 1/(1 - decay) steps. fairchem's UMA "
        f"release. {OURS}",
    )
    seed: int = Field(default=0, ge=0)
    on_divergence: Literal["skip", "stop"] = Field(
        default="skip", description=f"What to do with a step whose loss or gradient cannot be right. {OURS}"
    )
    max_consecutive_skips: PositiveInt = Field(default=10, description=f"More in a row end the training. {OURS}")
    max_skips: PositiveInt = Field(default=100, description=f"More in one launch of a stage end the training. {OURS}")
    max_loss_ratio: float = Field(
        default=1e4, gt=1, description=f"A loss this many times the median of the last 100 is a divergence. {OURS}"
    )
    best_by: Literal["forces_mae", "energy_per_atom_mae", "stress_mae"] = Field(
        default="forces_mae", description="Validation metric by which checkpoints/best is chosen; the lower the better."
    )
    resume: Literal["strict", "any"] = Field(
        default="strict", description="any: continue a run although data, configuration, versions or ranks differ."
    )
    mixture: list[MixturePart] = Field(
        default_factory=list,
        exclude_if=_unless([]),
        description="Releases to train on together; none: the newest of release.name.",
    )
    allow_mixed_protocols: bool = Field(
        default=False, exclude_if=_unless(False), description="Train on releases of several theory levels."
    )
    references: Literal["least_squares", "isolated_atoms"] = Field(
        default="least_squares",
        exclude_if=_unless("least_squares"),
        description=f"What is taken off energies per element: a fit to the training set, or energies of isolated "
        f"atoms. {OURS}",
    )
    isolated_atom_energies: dict[str, float] = Field(
        default_factory=dict,
        exclude_if=_unless({}),
        description="Element → eV, for references: isolated_atoms; by default those of the labels' protocol.",
    )
    on_bad_labels: Fate = Field(
        default="refuse",
        exclude_if=_unless("refuse"),
        description="Training and validation labels without energy, forces or stress, or that are not finite.",
    )
    on_unknown_elements: Fate = Field(
        default="refuse",
        exclude_if=_unless("refuse"),
        description="Validation labels with elements that the training set does not have.",
    )
    on_oversize: Fate = Field(
        default="refuse", exclude_if=_unless("refuse"), description="Structures with more atoms than a batch."
    )
    on_shared_frames: Fate = Field(
        default="refuse",
        exclude_if=_unless("refuse"),
        description="Training frames of one release of a mixture that are in the validation or test set of another.",
    )
    direct: StageParameters = StageParameters(
        epochs=70,
        warmup_epochs=1.0,
        max_atoms=10_000,
        ranks=8,
        max_neighbors=30,
        learning_rate=8e-4,
        bf16=True,
        energy_coefficient=10,
        force_coefficient=30,
    )
    conservative: StageParameters = StageParameters(
        epochs=30,
        warmup_epochs=1.0,
        max_atoms=1_500,
        ranks=32,
        max_neighbors=300,
        learning_rate=4e-4,
        bf16=False,
        energy_coefficient=20,
        force_coefficient=2,
        stress_coefficient=1,
    )


class EVScanParameters(Parameters):
    """MLIP Arena's energy-volume scan (Table 1)."""

    n_points: int = Field(default=21, ge=5, description="Odd, so that the middle is the structure as given.")
    max_linear_strain: float = Field(default=0.20, gt=0, lt=1, description="Of all lattice parameters.")


class ForceBinParameters(Parameters):
    """Errors binned by the largest force of the structure (Figure 4)."""

    edges_ev_per_a: list[float] = Field(
        default=[0.0, 0.2, 1.0, 10.0, 800.0], min_length=2, description="0.2, 10 and 800 are the paper's; 0 and 1 ours."
    )
    split: Literal["train", "val", "test", "all"] = "test"
    subtract: Literal["none", "mean", "elements"] = Field(
        default="none", description="Offset taken from the energies' errors: none, their mean, or one per element."
    )
    bootstrap_draws: int = Field(default=1000, ge=0, description="Of the intervals, over candidates. " + OURS)


class RelaxationBenchmarkParameters(Parameters):
    """Displaced structures relaxed again (Figure 5)."""

    displacement_a: Strictly = Field(default=0.1, description="Length of every site's displacement, Å.")
    seed: int = Field(default=0, ge=0, description="Of the directions. " + OURS)
    force_tolerance_ev_per_a: Strictly = Field(default=0.05, description="Of atoms and cell.")
    max_steps: PositiveInt = Field(default=500, description="Steps of FIRE. " + OURS)
    max_volume_ratio: float = Field(default=2.0, gt=1, description="Volume over start, or the inverse. " + OURS)
    formation_energies: bool = Field(default=True, description="Against elements relaxed by the same model.")


class BulkModulusParameters(Parameters):
    """Bulk modulus from an equation of state (Figure S6); steps and volumes are MLIP Arena's."""

    n_points: int = Field(default=21, ge=5, description="Volumes.")
    max_volume_strain: float = Field(default=0.20, gt=0, lt=1, description="Of the volume, not of the lengths.")
    force_tolerance_ev_per_a: Strictly = Field(default=0.05, description="Of both relaxations; Arena's is 0.1.")
    max_steps: PositiveInt = Field(default=500, description="Steps of FIRE, of each relaxation. " + OURS)
    max_volume_ratio: float = Field(default=2.0, gt=1, description="Volume over start, or the inverse. " + OURS)
    max_residual: Strictly = Field(
        default=0.05,
        description="RMS residual of the fit over the range of the energies; above it a fit is bad. " + OURS,
    )


class BenchmarkParameters(Parameters):
    """What models are measured by (section 2.4); further keys are benchmarks of other packages."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    ev_scan: EVScanParameters = EVScanParameters()
    force_bins: ForceBinParameters = ForceBinParameters()

    def named(self) -> list[str]:
        """Return the names of the benchmarks to run: those with fields here, and those the campaign adds."""
        return [*type(self).model_fields, *(self.model_extra or {})]
