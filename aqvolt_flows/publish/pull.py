"""Getting a published folder back: fetched aside, compared with its manifest, then given its name."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.publish.content import Content, read_content
from aqvolt_flows.publish.targets import Target, Tell


def pull(target: Target, name: str, parent: Path, out: Path | None, tell: Tell) -> Content:
    """Fetch a folder and return its content.

    Parameters
    ----------
    target
        Where it is.
    name
        As the place was named; a pull of the same name goes on where an earlier one was killed.
    parent
        Folder that gets it, under the name that its manifest gives.
    out
        The folder itself, instead.
    tell
        Called with a sentence when something was done.

    Raises
    ------
    InputError
        If the folder exists with another content, or what came has no card or differs from its manifest.
    ResourceError
        If the place does not answer, or the folder cannot be written.
    """
    above = out.parent if out else parent
    aside = above / f".pull-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        target.pull(aside, tell)
        content = read_content(aside)
        final = out or parent / _folder_name(content)
        if final.exists():
            there = read_content(final)
            if there.content_hash != content.content_hash:
                raise InputError(f"{final} holds {there.identity}, not {content.identity}; give another --out.")
            shutil.rmtree(aside, ignore_errors=True)
            return there
        aside.rename(final)
    except OSError as error:
        raise ResourceError(f"{above} cannot be written ({error}); free space or give another --out.") from None
    return Content(final, tuple(replace(f, path=final / f.name) for f in content.files), content.manifest)


def _folder_name(content: Content) -> str:
    """Return a name for the folder; whatever the manifest says, it stays in the folder above."""
    said = str(content.manifest.get("release_id") or content.manifest.get("model_id") or "")
    name = re.sub(r"[^\w.-]+", "-", said.replace("@", "-")).lstrip(".-")
    return name or f"pulled-{content.content_hash[:12]}"
