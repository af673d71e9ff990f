"""Under which license a release may be passed on: that of its sources, and a mixture says so."""

from __future__ import annotations

from collections.abc import Mapping

#: Sources of labels that this project computed; the parameters of a release say their license.
OWN = frozenset({"sampled", "aimd"})
#: What published sets say of themselves, the Hub's identifiers; an import may say otherwise (``--license``).
PUBLISHED = {"MatPES": "bsd-3-clause", "MP-ALOE": "cc-by-4.0", "MP": "cc-by-4.0"}
UNKNOWN = "unknown"
#: The Hub's word for anything that is not one license of its list.
OTHER = "other"


def licenses_of(sources: Mapping[str, set[str | None]], own: str) -> dict[str, str]:
    """Return source → license, sorted; several of one source are joined by `` and ``.

    Parameters
    ----------
    sources
        Source → the licenses that its labels carry, None where a label names none.
    own
        License of the labels that this project computed.
    """
    found = {}
    for source, named in sorted(sources.items()):
        otherwise = own if source in OWN else PUBLISHED.get(source, UNKNOWN)
        found[source] = " and ".join(sorted({name or otherwise for name in named}))
    return found


def card_license(licenses: Mapping[str, str]) -> str:
    """Return what the front matter of a card says: the one license that is known, or ``other``."""
    (only,) = set(licenses.values()) if len(set(licenses.values())) == 1 else {OTHER}
    return OTHER if only == UNKNOWN or " and " in only else only
