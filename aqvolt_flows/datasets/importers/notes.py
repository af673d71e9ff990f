"""What readers tell of a whole file beside its labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Notes:
    """What readers tell of a whole file beside its labels.

    Attributes
    ----------
    remarks
        Sentences, each once.
    unread
        Columns or keys that no label keeps, and in how many records they were.
    """

    remarks: dict[str, None] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)

    def say(self, sentence: str) -> None:
        """Take a remark, once."""
        self.remarks.setdefault(sentence, None)

    def sentences(self) -> list[str]:
        """Return all remarks, the columns that were not read among them."""
        unread = [f"Not read: {', '.join(sorted(self.unread))}."] if self.unread else []
        return [*self.remarks, *unread]
