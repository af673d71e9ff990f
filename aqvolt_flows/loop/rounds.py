"""What a round of a loop is as a campaign: its potential, its seeds, its release and what it must not train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.datasets.splits import unit_hash
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.potentials import model_hash
from aqvolt_flows.schemas.candidate import explored
from aqvolt_flows.schemas.loop import LoopDocument, LoopParameters
from aqvolt_flows.schemas.parameters import ReleaseParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import Database

#: Name of the set that no round trains on.
HOLD_OUT = "loop_hold_out"


def loop_name(campaign: Campaign) -> str:
    """Return the name of a campaign's loop."""
    return campaign.loop.name or campaign.name


def round_id_of(loop: str, number: int) -> str:
    """Return the identity of a round."""
    return f"{loop}-r{number}"


def blank_round(campaign: Campaign, number: int, potential: str, **values: Any) -> LoopDocument:
    """Return the document of a round that begins."""
    loop = loop_name(campaign)
    return LoopDocument(
        key=content_key("loop/1", loop=loop, round=number),
        round_id=round_id_of(loop, number),
        loop=loop,
        round=number,
        campaign=campaign.name,
        campaigns=[campaign.name],
        status="running",
        parameters=campaign.loop.model_dump(mode="json"),
        potential=potential,
        potential_sha256=model_hash(potential),
        **values,
    )


def rounds_of(database: Database, campaign: Campaign) -> list[LoopDocument]:
    """Return the rounds of a campaign's loop, the first one first.

    Raises
    ------
    InputError
        If the loop is another campaign's.
    """
    found = [LoopDocument(**d) for d in database["loops"].find({"loop": loop_name(campaign)}, {"_id": 0})]
    other = next((d.campaign for d in found if d.campaign != campaign.name), None)
    if other is not None:
        raise InputError(
            f"The loop {loop_name(campaign)!r} belongs to the campaign {other}; set loop.name to a name of its own."
        )
    return sorted(found, key=lambda d: d.round)


def potential_of(database: Database, document: LoopDocument) -> str:
    """Return the model string that explores a round on this machine."""
    if document.committee is None:
        return document.potential
    return f"committee:{database.artifacts.local_path(document.committee)}"


def round_campaign(campaign: Campaign, database: Database, document: LoopDocument) -> Campaign:
    """Return the campaign with the potential, the seed and the release of a round.

    Every round runs the same candidates with momenta of its own; a committee's runs end where it is lost. The release
    is ``NAME-rK`` and holds out what the loop holds out.
    """
    p = LoopParameters(**document.parameters)
    exploration: dict[str, Any] = {"seed": campaign.exploration.seed + document.round}
    exploration["potential"] = potential_of(database, document)
    if document.committee is not None:
        exploration["max_force_sigma_ev_per_a"] = p.uncertain_ev_per_a or 2 * p.trust.upper_ev_per_a
        exploration["uncertain_steps"] = p.uncertain_steps
    release = campaign.release.model_dump()
    release["name"] = f"{campaign.release.name}-r{document.round}"
    release["exports"] = sorted({*release["exports"], "aselmdb"})  # what trainings read
    if document.hold_out:
        release["hold_out"] = release["hold_out"] | {HOLD_OUT: {"frame_id": {"$in": document.hold_out}}}
    return campaign.model_copy(
        update={
            "loop": p,
            "exploration": campaign.exploration.model_copy(update=exploration),
            "release": ReleaseParameters(**release),
        }
    )


def member_campaigns(campaign: Campaign) -> list[Campaign]:
    """Return one campaign a member of the committee, each with one training: the same but for its seed.

    Raises
    ------
    InputError
        If the campaign has no training of the name that the loop gives.
    """
    p, choices = campaign.loop, campaign.trainings
    name = p.training or next(iter(choices), "")
    if name not in choices:
        raise InputError(f"loop.training is {name!r}; the campaign's trainings are {', '.join(choices) or 'none'}.")
    first = int(choices[name].get("seed", campaign.training.seed))
    return [
        campaign.model_copy(update={"trainings": {f"{name}-{i}": {**choices[name], "seed": first + i}}})
        for i in range(p.members)
    ]


def draw_hold_out(frames: Mapping[str, str], fraction: float, salt: str) -> list[str]:
    """Return the frames that no round trains on: whole trajectories, in the order of a hash, until they are enough.

    Frames of one trajectory resemble each other, so that none of them is trained on where one is held out; of a single
    trajectory single frames are taken.

    Parameters
    ----------
    frames
        frame_id → trajectory_id of the first round's labels.
    fraction
        Share of them.
    salt
        Of the hash.

    Raises
    ------
    InputError
        If there are fewer than two labels: nothing would be left to train on.
    """
    if len(frames) < 2:
        raise InputError(
            f"The first round has {len(frames)} valid labels; a hold-out and a training set need two at least: raise "
            "loop.max_labels or explore longer."
        )
    groups: dict[str, list[str]] = {}
    for frame, trajectory in frames.items():
        groups.setdefault(trajectory, []).append(frame)
    if len(groups) == 1:
        groups = {frame: [frame] for frame in frames}
    order = sorted(groups, key=lambda name: (unit_hash(name, salt), name))
    held: list[str] = []
    for name in order[:-1]:  # the last one stays, whatever the fraction
        if held and len(held) >= fraction * len(frames):
            break
        held += groups[name]
    return sorted(held)


def hold_out_of(database: Database, query: Mapping[str, Any]) -> list[str]:
    """Return the frame_id of the labels that a campaign's query holds out.

    Raises
    ------
    InputError
        If there is none.
    """
    from aqvolt_flows.datasets.groups import label_query

    asked = label_query(database, database.own("labels").among({"status": "valid"}), query, "loop.hold_out")
    found = sorted(set(database["labels"].distinct("frame_id", asked)))
    if not found:
        raise InputError(f"No valid label matches loop.hold_out {dict(query)}; import the labels first, or correct it.")
    return found


def check_start(campaign: Campaign, database: Database) -> None:
    """Raise :class:`InputError` if a loop of this campaign cannot begin: no candidates, or unknown elements."""
    from ase.data import atomic_numbers

    from aqvolt_flows.potentials import load_potential

    member_campaigns(campaign)
    query = explored(campaign.substitution.only_aimd)
    systems = {
        d["formula"]: d["elements"] for d in database.own("candidates").find(query, {"formula": 1, "elements": 1})
    }
    if not systems:
        raise InputError("There is no accepted candidate yet; run 'aqvolt candidates select' and 'aqvolt work' first.")
    known = load_potential(campaign.exploration.potential, database.settings.resolve_device()).elements
    for formula, elements in sorted(systems.items()):
        lacking = [e for e in elements if atomic_numbers[e] not in known]
        if lacking:
            raise InputError(
                f"{campaign.exploration.potential} was not trained on {', '.join(lacking)}, which {formula} contains; "
                "leave the candidate out (candidates.exclude_elements) or choose another potential."
            )


def committee_file(database: Database, model_ids: Sequence[str]) -> ArtifactRef:
    """Return the file of the committee of some trained models, in the artifact store.

    Raises
    ------
    InputError
        As :func:`~aqvolt_flows.potentials.committee.describe_committee`.
    """
    from aqvolt_flows.potentials.checkpoints import channel_hash
    from aqvolt_flows.potentials.committee import describe_committee

    found = {d["model_id"]: d for d in database.find_by_ids("models", list(model_ids))}
    documents = [found[m] for m in model_ids]
    # members are named by their identity, which every machine of the project finds
    content = describe_committee(
        model_ids,
        database.settings.path("."),
        [d["content_hash"] for d in documents],
        [channel_hash(d["checkpoint"]["sha256"], d.get("channel")) for d in documents],
    )
    return database.artifacts.put_bytes(content, "json")
