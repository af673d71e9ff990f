"""Whether an LMDB file is whole: one that was cut short kills the process that reads beyond its end."""

from __future__ import annotations

from pathlib import Path

from aqvolt_flows.errors import InputError


def check_whole(file: Path) -> None:
    """Refuse an LMDB file that is shorter than its own last page.

    The file is mapped into memory: reading a page that it lacks is no error that Python could report but a bus error.

    Raises
    ------
    InputError
        If the file is cut short, or no LMDB file.
    """
    import lmdb

    size = file.stat().st_size
    try:
        with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as environment:
            wanted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    except lmdb.Error as error:
        raise InputError(
            f"{file} ({size} bytes) is not a whole LMDB file ({error}); export the release again."
        ) from None
    if size < wanted:
        raise InputError(
            f"{file} was cut short: it has {size} bytes and its index says {wanted}; copy it again or export the "
            "release again."
        )
