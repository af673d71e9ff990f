"""What belongs together when a release is split: frames of one trajectory, candidate, lineage, prototype or formula.

A frame that has no such ancestor (imported data have none) is a group of its own, except for prototypes, where its
anonymous formula stands in: coarser, so that it can only keep more together.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from pymatgen.core import Composition, Structure

from aqvolt_flows.datasets.rows import Row
from aqvolt_flows.errors import InputError
from aqvolt_flows.stores import Database


def own_group(row: Row, group_by: str) -> tuple[str | None, str]:
    """Return the name by which a row's group is found, and the group it has when that leads nowhere."""
    found = {
        "frame": row.frame_id,
        "trajectory": row.trajectory_id,
        "candidate": row.candidate_id,
        "parent": row.candidate_id,
        "prototype": row.candidate_id,
        "formula": row.formula,
        "chemsys": row.chemsys,
    }[group_by]
    return found, anonymous(row.formula) if group_by == "prototype" else row.frame_id


def anonymous(formula: str) -> str:
    """Return a formula without its elements, e.g. ``formula:AB3C6`` for Li3YCl6."""
    return f"formula:{Composition(formula).anonymized_formula}"


def lineage_groups(database: Database, candidates: Iterable[str], group_by: str) -> dict[str, str]:
    """Return candidate → group for ``parent`` and ``prototype``; candidates that are not stored are left out.

    ``parent`` is the candidate at the root of the lineage (``parent_id`` of what was lithiated or substituted, and of
    its parent). ``prototype`` is the AFLOW-style label of pymatgen: anonymous formula, Pearson symbol, space group and
    Wyckoff letters, without the elements (Hicks et al., npj Comput. Mater. 7, 30 (2021)); a structure whose symmetry
    spglib does not find has its anonymous formula.
    """
    wanted = sorted(set(candidates))
    if group_by == "parent":
        links = {c["candidate_id"]: c.get("parent_id") for c in _candidates(database, {}, "parent_id")}
        return {c: root_of(c, links) for c in wanted if c in links}
    if group_by == "prototype":
        query = {"candidate_id": {"$in": wanted}}
        return {c["candidate_id"]: prototype_of(c["structure"]) for c in _candidates(database, query, "structure")}
    return {}


def _candidates(database: Database, query: Mapping[str, Any], field: str) -> Iterable[dict[str, Any]]:
    return database["candidates"].find(dict(query), {"_id": 0, "candidate_id": 1, field: 1})


def root_of(candidate_id: str, parents: Mapping[str, str | None]) -> str:
    """Return the first ancestor of a candidate; a parent that is not stored ends the line, a circle is cut."""
    seen = [candidate_id]
    while (parent := parents.get(seen[-1])) is not None and parent not in seen:
        seen.append(parent)
    return min(seen[seen.index(parent) :]) if parent is not None else seen[-1]


def prototype_of(structure: Mapping[str, Any]) -> str:
    """Return the prototype's label of a pymatgen structure dictionary, e.g. ``AB_cF8_225_a_b`` for rock salt."""
    from pymatgen.analysis.prototypes import get_protostructure_label

    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # pymatgen's own calls of spglib and monty
            warnings.simplefilter("ignore", category)
        made = Structure.from_dict(dict(structure))
        label = get_protostructure_label(made, method="spglib")
    if not label or label.startswith("Invalid"):
        return anonymous(made.composition.reduced_formula)
    return label.partition(":")[0]


def held_out(database: Database, rules: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any]) -> dict[str, str]:
    """Return label id → name of the hold-out whose rule it matches, among the labels that match ``base``.

    Raises
    ------
    InputError
        If a rule is no query, matches no label, or two rules match the same label.
    """
    found: dict[str, str] = {}
    for name, rule in sorted(rules.items()):
        ids = label_ids(database, label_query(database, base, rule, f"the rule of hold-out {name!r}"))
        if not ids:
            raise InputError(
                f"The rule of hold-out {name!r}, {dict(rule)}, matches no valid label; correct it or leave it out."
            )
        twice = next((i for i in ids if i in found), None)
        if twice is not None:
            raise InputError(
                f"Label {twice} is in the hold-outs {found[twice]!r} and {name!r}; it can be in one: narrow a rule."
            )
        found |= dict.fromkeys(ids, name)
    return found


def label_ids(database: Database, query: Mapping[str, Any]) -> list[str]:
    """Return the identities of the labels that match a query."""
    return [label["label_id"] for label in database["labels"].find(dict(query), {"_id": 0, "label_id": 1})]


def label_query(database: Database, base: Mapping[str, Any], rule: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the query on ``labels`` that a rule means: fields ``candidate.…`` are asked of the label's candidate.

    Raises
    ------
    InputError
        If the rule is empty or MongoDB refuses it.
    """
    from pymongo.errors import OperationFailure

    if not rule:
        raise InputError(f"{what[0].upper()}{what[1:]} is empty; give a query, e.g. {{'source': 'gnome'}}.")
    prefix = "candidate."
    own = {k: v for k, v in rule.items() if not k.startswith(prefix)}
    theirs = {k.removeprefix(prefix): v for k, v in rule.items() if k.startswith(prefix)}
    parts: list[dict[str, Any]] = [dict(base), own] if own else [dict(base)]
    try:
        if theirs:
            parts.append({"candidate_id": {"$in": database["candidates"].distinct("candidate_id", theirs)}})
        query = {"$and": parts} if len(parts) > 1 else parts[0]
        database["labels"].find_one(query, {"_id": 1})
    except OperationFailure as error:
        message = (error.details or {}).get("errmsg", str(error))
        raise InputError(f"MongoDB does not understand {what}, {dict(rule)} ({message}); correct the query.") from None
    return query
