"""Publishing into another folder: a disk of the group, a mounted share."""

from __future__ import annotations

import shutil
from pathlib import Path

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.publish.content import Content, PublishedFile, listed, read_file, read_manifest
from aqvolt_flows.publish.targets import Plan, Tell
from aqvolt_flows.schemas.publication import Publication


class FolderTarget:
    """A folder that is, or becomes, a copy.

    Parameters
    ----------
    path
        The folder itself, not the one above it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def plan(self, content: Content) -> Plan:
        """Return which files would be copied; changes nothing.

        Raises
        ------
        InputError
            If the folder is a file, is what would be copied, or holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is not a folder; give another.")
        if self.path.resolve() == content.folder.resolve():
            raise InputError(f"{self.path} is the folder that would be copied; give another.")
        present = listed(self.path) if self.path.is_dir() else {}
        wanted = {f.name for f in content.files}
        there = read_manifest(self.path).get("content_hash") if self.path.is_dir() else None
        strangers = sorted(set(present) - wanted)
        if strangers or (there and there != content.content_hash):
            what = f"holds {strangers[0]}" if strangers else "holds another release"
            raise InputError(f"{self.path} {what}, which is not of {content.identity}; give an empty or a new folder.")
        same = tuple(f for f in content.files if f.name in present and _same(f, present[f.name]))
        upload = tuple(f for f in content.files if f not in same)
        return Plan(str(self.path), upload, same)

    def push(self, content: Content, tell: Tell) -> Publication:
        """Copy what is missing, then read everything again and compare.

        Raises
        ------
        ResourceError
            If the folder cannot be written, or a copy differs.
        """
        plan = self.plan(content)
        try:
            for file in plan.upload:
                with (
                    written_aside(self.path / file.name) as aside,
                    file.path.open("rb") as source,
                    aside.open("wb") as out,
                ):
                    shutil.copyfileobj(source, out, 1 << 20)
                tell(f"copied {file.name}")
            wrong = [f.name for f in content.files if not _same(f, self.path / f.name)]
        except OSError as error:
            raise ResourceError(
                f"{self.path} cannot be written ({error}); free space or give another folder."
            ) from None
        if wrong:
            raise ResourceError(f"{self.path} differs from {content.folder} in {', '.join(wrong)}; push it again.")
        return Publication(
            target=str(self.path),
            kind="folder",
            version=content.content_hash,
            state="private",
            files=len(content.files),
            bytes=content.bytes,
        )

    def pull(self, folder: Path, tell: Tell) -> None:
        """Copy all files into a folder; those that are there with the right size and hash stay.

        Raises
        ------
        InputError
            If there is no such folder.
        """
        if not self.path.is_dir():
            raise InputError(f"There is no folder {self.path}; expected one, hf:ORG/NAME or zenodo:ID.")
        for name, path in listed(self.path).items():
            target = folder / name
            if target.is_file() and _same(read_file(name, path), target):
                continue
            with written_aside(target) as aside:
                shutil.copyfile(path, aside)
            tell(f"copied {name}")


def _same(file: PublishedFile, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and read_file(file.name, path).sha256 == file.sha256
