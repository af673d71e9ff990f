"""Zenodo: a record with a DOI, through its REST interface (developers.zenodo.org, deposit).

A push finds its own draft again, so that one that was killed goes on. Zenodo has no folders: ``data/train.parquet`` is
stored as ``data--train.parquet``, and a pull restores the folders.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.publish.content import Content, PublishedFile, read_file, sized
from aqvolt_flows.publish.rest import HttpError, Rest
from aqvolt_flows.publish.targets import Plan, Tell
from aqvolt_flows.schemas.publication import Publication

SLASH = "--"
#: Zenodo's limits of one record.
MAX_FILES = 100
MAX_BYTES = 50_000_000_000
_PAGE = 100
_HOSTS = {False: "https://zenodo.org/api", True: "https://sandbox.zenodo.org/api"}
#: Variables that hold the address, and the token; the first that is set counts.
_URLS = {False: ("ZENODO_URL",), True: ("ZENODO_SANDBOX_URL",)}
_TOKENS = {False: ("ZENODO_TOKEN", "ZENODO_ACCESS_TOKEN"), True: ("ZENODO_SANDBOX_TOKEN",)}


class ZenodoTarget:
    """A record on Zenodo.

    Parameters
    ----------
    record
        Its number; none: the draft of an earlier push of the same content, or a new one.
    sandbox
        Use sandbox.zenodo.org, where nothing is for good.
    public
        Publish, which gives the DOI and cannot be undone; else the draft stays, with a reserved DOI.
    repo_type
        ``dataset``, or ``model``, which Zenodo calls software.
    license
        Instead of the manifest's.
    """

    def __init__(
        self,
        record: str | None = None,
        sandbox: bool = False,
        public: bool = False,
        repo_type: str = "dataset",
        license: str | None = None,
    ) -> None:
        self.license = license
        self.record, self.sandbox, self.public, self.repo_type = record, sandbox, public, repo_type
        self.scheme = "zenodo-sandbox" if sandbox else "zenodo"
        self.name = f"{self.scheme}:{record}" if record else self.scheme
        self._rest = Rest(
            "Zenodo", _of_environment(_URLS[sandbox]) or _HOSTS[sandbox], _of_environment(_TOKENS[sandbox])
        )

    def plan(self, content: Content) -> Plan:
        """Return which files would be uploaded; changes nothing.

        Raises
        ------
        InputError
            If Zenodo cannot take the folder, or the record holds something else.
        """
        _check(content)
        if not _of_environment(_TOKENS[self.sandbox]):
            note = f"Without {_TOKENS[self.sandbox][0]} it is unknown what is on Zenodo already."
            return Plan(self.name, content.files, (), (), (note, self._ending()))
        deposit = self._find(content)
        if deposit is None:
            return Plan(self.name, content.files, (), (), ("A new record is made.", self._ending()))
        return self._compare(content, deposit)

    def push(self, content: Content, tell: Tell) -> Publication:
        """Upload what is not there, compare by MD5, and publish if asked for.

        Raises
        ------
        ResourceError
            If there is no token, Zenodo refuses, or what arrived differs.
        """
        _check(content)
        if not _of_environment(_TOKENS[self.sandbox]):
            raise ResourceError(f"There is no token for Zenodo; set {_TOKENS[self.sandbox][0]} (scope deposit:write).")
        metadata = _metadata(content, self.repo_type, self.license)
        deposit = self._find(content)
        if deposit is None:
            deposit = self._rest.json("POST", "/deposit/depositions", {"metadata": metadata})
            tell(f"made the draft {self.scheme}:{deposit['id']}")
        number = str(deposit["id"])
        if not deposit.get("submitted"):
            plan = self._compare(content, deposit)
            self._remove(number, plan.remove, tell)
            for file in plan.upload:
                self._rest.upload(f"{deposit['links']['bucket']}/{quote(_flat(file.name))}", file.path, file.bytes)
                tell(f"uploaded {file.name}")
        deposit = self._rest.json("GET", f"/deposit/depositions/{number}")
        self._verify(content, deposit)
        if self.public and not deposit.get("submitted"):
            deposit = self._rest.json("POST", f"/deposit/depositions/{number}/actions/publish")
            tell("published")
        return self._publication(content, deposit)

    def pull(self, folder: Path, tell: Tell) -> None:
        """Download the record's files into the folders that they had.

        Raises
        ------
        InputError
            If no record is named, or a name in it leads out of the folder.
        """
        if self.record is None:
            raise InputError(f"Which record? Write {self.scheme}:ID with the number of one.")
        for name, (url, size, md5) in self._files().items():
            target = folder / _folders(name)
            if target.is_file() and read_file(name, target).md5 == md5:
                continue
            self._rest.download(url, target, size, md5)
            tell(f"downloaded {_folders(name)}")

    def _files(self) -> dict[str, tuple[str, int, str]]:
        """Return name → address, size and MD5 of a record's files; of a draft where it is not published."""
        try:
            record = self._rest.json("GET", f"/records/{self.record}")
        except HttpError as error:
            if error.status not in {401, 403, 404, 410} or not _of_environment(_TOKENS[self.sandbox]):
                raise
            deposit = self._rest.json("GET", f"/deposit/depositions/{self.record}")
            bucket = deposit["links"]["bucket"]
            return {n: (f"{bucket}/{quote(n)}", size, md5) for n, (size, md5, _) in _present(deposit).items()}
        return {
            str(f["key"]): (str(f["links"]["self"]), int(f["size"]), str(f["checksum"]).removeprefix("md5:"))
            for f in record["files"]
        }

    def _find(self, content: Content) -> dict[str, Any] | None:
        """Return the named deposit, or the account's own of the same content; none if there is none."""
        if self.record is not None:
            found: dict[str, Any] = self._rest.json("GET", f"/deposit/depositions/{self.record}")
            if found.get("submitted") and not _is_of(found, content):
                raise InputError(
                    f"{self.name} is published with another content, and records do not change; push to {self.scheme}."
                )
            return found
        page = 1
        while True:
            rows = self._rest.json("GET", f"/deposit/depositions?page={page}&size={_PAGE}")
            mine = [row for row in rows if _is_of(row, content)]
            if mine:
                # the list does not tell the files
                deposit: dict[str, Any] = self._rest.json("GET", f"/deposit/depositions/{mine[0]['id']}")
                return deposit
            if len(rows) < _PAGE:
                return None
            page += 1

    def _compare(self, content: Content, deposit: Mapping[str, Any]) -> Plan:
        present = _present(deposit)
        keep = tuple(f for f in content.files if _same(present.get(_flat(f.name)), f))
        upload = tuple(f for f in content.files if f not in keep)
        remove = tuple(sorted(present.keys() - {_flat(f.name) for f in content.files}))
        name = f"{self.scheme}:{deposit['id']}"
        if deposit.get("submitted"):
            note = "It is published already; nothing changes."
            return Plan(name, (), content.files, (), (note,))
        return Plan(name, upload, keep, remove, ("Its draft is continued.", self._ending()))

    def _ending(self) -> str:
        if self.public:
            return "It is then published: the DOI becomes valid, and files cannot be changed any more."
        return "It stays a draft with a reserved DOI; --public publishes it."

    def _remove(self, number: str, names: tuple[str, ...], tell: Tell) -> None:
        if not names:
            return
        present = _present(self._rest.json("GET", f"/deposit/depositions/{number}"))
        for name in names:
            self._rest.json("DELETE", f"/deposit/depositions/{number}/files/{present[name][2]}")
            tell(f"removed {name}")

    def _verify(self, content: Content, deposit: Mapping[str, Any]) -> None:
        present = _present(deposit)
        wrong = [f.name for f in content.files if not _same(present.get(_flat(f.name)), f)]
        if wrong:
            raise ResourceError(
                f"{self.scheme}:{deposit['id']} differs from {content.folder} in {', '.join(wrong)}; push it again."
            )

    def _publication(self, content: Content, deposit: Mapping[str, Any]) -> Publication:
        reserved = deposit.get("metadata", {}).get("prereserve_doi") or {}
        return Publication(
            target=f"{self.scheme}:{deposit['id']}",
            kind="zenodo",
            version=str(deposit["id"]),
            state="public" if deposit.get("submitted") else "draft",
            url=deposit.get("links", {}).get("html"),
            doi=deposit.get("doi") or reserved.get("doi"),
            files=len(content.files),
            bytes=content.bytes,
        )


def _of_environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _flat(name: str) -> str:
    return name.replace("/", SLASH)


def _folders(name: str) -> str:
    """Return the path that a name on Zenodo stands for.

    Raises
    ------
    InputError
        If it leads out of the folder, or is hidden.
    """
    parts = name.split(SLASH)
    if any(not part or part.startswith(".") or "/" in part or "\\" in part for part in parts):
        raise InputError(f"The record holds a file {name!r}, which is no name of a release; nothing more was fetched.")
    return "/".join(parts)


def _check(content: Content) -> None:
    odd = [f.name for f in content.files if SLASH in f.name]
    if odd:
        raise InputError(f"{odd[0]} has {SLASH!r} in its name, which stands for a folder on Zenodo; rename it.")
    empty = [f.name for f in content.files if not f.bytes]
    if empty:
        raise InputError(f"{empty[0]} is empty, and Zenodo takes no empty files; remove it.")
    if len(content.files) > MAX_FILES or content.bytes > MAX_BYTES:
        raise InputError(
            f"{content.identity} has {len(content.files)} files and {sized(content.bytes)}; a record on Zenodo takes "
            f"{MAX_FILES} files and {sized(MAX_BYTES)}. Leave exports out, or push it to hf:ORG/NAME."
        )


def _present(deposit: Mapping[str, Any]) -> dict[str, tuple[int, str, str]]:
    """Return name → size, MD5 and identity of a deposit's files."""
    return {
        str(f["filename"]): (int(f["filesize"]), str(f["checksum"]).removeprefix("md5:"), str(f["id"]))
        for f in deposit.get("files") or []
    }


def _same(there: tuple[int, str, str] | None, file: PublishedFile) -> bool:
    return there is not None and there[0] == file.bytes and there[1] == file.md5


def _is_of(deposit: Mapping[str, Any], content: Content) -> bool:
    metadata = deposit.get("metadata") or {}
    return bool(metadata.get("version") == _version(content) and metadata.get("title") == content.identity)


def _version(content: Content) -> str:
    return content.content_hash[:12]


def _metadata(content: Content, repo_type: str, license: str | None) -> dict[str, Any]:
    """Return Zenodo's metadata of a folder, from its manifest.

    Raises
    ------
    InputError
        If neither the manifest nor the caller names a license, which Zenodo needs.
    """
    license = license or str(content.manifest.get("license") or "")
    if not license or license == "other":
        raise InputError(
            f"{content.identity} names no single license, and Zenodo needs one; give --license, e.g. cc-by-4.0, or use "
            "labels of one license."
        )
    counts = content.manifest.get("counts") or {}
    said = f" {counts['total']} labeled configurations, {counts['atoms']} atoms." if "atoms" in counts else ""
    text = (
        f"{content.identity}.{said} The card is README.md. Names with {SLASH} stand for folders; "
        f"'aqvolt release pull zenodo:ID' restores them. Content hash {content.content_hash}."
    )
    return {
        "title": content.identity,
        "upload_type": "dataset" if repo_type == "dataset" else "software",
        "description": f"<p>{html.escape(text, quote=False)}</p>",
        "creators": [{"name": str(content.manifest.get("creator") or "aqvolt-flows")}],
        "access_right": "open",
        "license": license,
        "version": _version(content),
        "prereserve_doi": True,
    }
