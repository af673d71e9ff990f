"""Write aside, then rename: a killed process leaves the old file or the new one, never half of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(target: str | Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it takes the target's place when the block ends without an error.

    Folders above the target are made. On an error, also an interrupt, what was written is removed and the target
    stays as it was.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with written_aside(target) as path:
    ...     _ = path.write_text("1 2 3")
    >>> target.read_text()
    '1 2 3'
    """
    final = Path(target)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{uuid.uuid4().hex}.part")
    try:
        yield aside
        aside.replace(final)
    finally:
        aside.unlink(missing_ok=True)
