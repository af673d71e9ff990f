"""The files of a dataset that was downloaded as a folder: a snapshot of the Hugging Face Hub, its cache, save_to_disk.

Of a snapshot, the files of the configuration ``default`` in the card's front matter are read, or else all files of the
source's format. The Hub's cache (``snapshots/COMMIT``) is entered by itself where it holds one commit.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from aqvolt_flows.datasets.importers.published import Broken, Entry, Imported
from aqvolt_flows.errors import InputError

#: Source → how the names of its files end.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "matpes": (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet", ".arrow"),
    "mp-aloe": (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet", ".arrow"),
    "mp": (".json", ".json.gz", ".jsonl", ".jsonl.gz"),
    "aqvolt26": (".parquet",),
    "extxyz": (".extxyz", ".extxyz.gz", ".xyz", ".xyz.gz"),
    "aselmdb": (".aselmdb",),
    "colabfit": (".parquet", ".arrow"),
    "lemat": (".parquet", ".arrow"),
}
#: Files of a folder that hold no records.
_NO_RECORDS = {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json", "manifest.json"}
_NO_RECORDS |= {"croissant.json", "stats.json"}
_POINTER = b"version https://git-lfs.github.com"


def dataset_files(path: Path, source: str) -> list[tuple[Path, str]]:
    """Return the files to read, each with the name that labels and reports give it.

    Parameters
    ----------
    path
        A file, which is returned as it is, or a folder.
    source
        Whose format the files have.

    Raises
    ------
    InputError
        If a folder has no file of the format, or its cache holds several commits.
    """
    if not path.is_dir() or source not in SUFFIXES:  # a folder of VASP runs is read as a whole
        return [(path, path.name or path.resolve().name)]  # the name of "." is empty
    folder = _snapshot(path)
    suffixes = SUFFIXES[source]
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.name.lower().endswith(suffixes) and file.name not in _NO_RECORDS and not _hidden(file, folder)
    )
    patterns = _default_patterns(folder)
    chosen = [f for f in files if any(fnmatch.fnmatch(f.relative_to(folder).as_posix(), p) for p in patterns)]
    if not (chosen or files):
        held = ", ".join(sorted({f.suffix or f.name for f in folder.rglob("*") if f.is_file()})[:8]) or "nothing"
        raise InputError(
            f"{path} has no file of {source} ({', '.join(suffixes)}); it holds {held}: choose another --source, or "
            "give the folder of the data."
        )
    return [(file, file.relative_to(folder).as_posix()) for file in chosen or files]


def named(entries: Iterator[Entry], name: str) -> Iterator[Entry]:
    """Yield entries under another name of their file, that in the folder."""
    for entry in entries:
        if isinstance(entry, Imported):
            yield replace(entry, provenance={**entry.provenance, "file": name})
        elif isinstance(entry, Broken):
            yield replace(entry, file=name)
        else:
            yield entry


def refuse_pointer(path: Path) -> None:
    """Refuse a file that Git LFS left in place of the real one.

    Raises
    ------
    InputError
        If it is one, or cannot be read.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(len(_POINTER))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}).") from None
    if head == _POINTER:
        raise InputError(f"{path} is a pointer of Git LFS, not the data; run 'git lfs pull' in its folder.")


def license_of(path: Path) -> str | None:
    """Return the license that the card of a downloaded folder states; None for files and folders without one."""
    card = _snapshot(path) / "README.md" if path.is_dir() else path
    said = front_matter(card).get("license") if card.name == "README.md" and card.is_file() else None
    return said if isinstance(said, str) and said else None


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _snapshot(path: Path) -> Path:
    """Return the folder with the files: path itself, or the commit in a cache of the Hub."""
    commits = sorted(p for p in (path / "snapshots").glob("*") if p.is_dir())
    if not commits:
        return path
    main = path / "refs" / "main"
    if main.is_file() and (path / "snapshots" / main.read_text().strip()).is_dir():
        return path / "snapshots" / main.read_text().strip()
    if len(commits) > 1:
        listed = ", ".join(c.name[:12] for c in commits)
        raise InputError(f"{path} holds the commits {listed}; give the folder of one: {commits[-1]}.")
    return commits[0]


def _default_patterns(folder: Path) -> list[str]:
    """Return the patterns of files of the default configuration in the card or of save_to_disk; empty: all files."""
    state = folder / "state.json"
    if state.is_file():
        listed = _mapping(_json(state)).get("_data_files")
        names = [_mapping(f).get("filename") for f in listed] if isinstance(listed, list) else []
        return [str(n) for n in names if n]
    card = folder / "README.md"
    if not card.is_file():
        return []
    configs = front_matter(card).get("configs")
    default = [_mapping(c) for c in configs if _is_default(_mapping(c))] if isinstance(configs, list) else []
    found: list[str] = []
    for config in default:
        given = config.get("data_files")
        for one in given if isinstance(given, list) else [given]:
            paths = _mapping(one).get("path") if isinstance(one, Mapping) else one
            found += [str(p) for p in (paths if isinstance(paths, list) else [paths]) if p]
    return found


def _is_default(config: Mapping[str, Any]) -> bool:
    return config.get("config_name") == "default" or bool(config.get("default"))


def front_matter(card: Path) -> dict[str, Any]:
    """Return the front matter of a dataset's card; empty where there is none or it is broken."""
    text = card.read_text(errors="replace")
    if not text.startswith("---"):
        return {}
    try:
        return _mapping(yaml.safe_load(text[3:].split("\n---", 1)[0]))
    except yaml.YAMLError:
        return {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(errors="replace"))
    except ValueError:
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
