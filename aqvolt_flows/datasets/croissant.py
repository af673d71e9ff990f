"""``croissant.json``: MLCommons Croissant 1.1 (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html).

One file object a Parquet file, one record set with its columns; arrays have their shape. ``datePublished`` is the day
of the newest label, so that the same labels give the same bytes. Without a published address ``url`` is the name that
RFC 6920 gives content: ``ni:///sha-256;`` and the release's content hash.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from aqvolt_flows.datasets.columns import COLUMNS, Column
from aqvolt_flows.datasets.folder import split_paths
from aqvolt_flows.identity import file_sha256

VERSION = "http://mlcommons.org/croissant/1.1"
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def describe(release: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Croissant description of a release whose Parquet files are written."""
    files = split_paths(release)
    counts = manifest["counts"]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": manifest["name"],
        "description": f"{counts['total']} configurations with energy, forces and stress, release "
        f"{manifest['release_id']}, protocols: {', '.join(manifest['protocols'])}.",
        "license": _licenses(manifest),
        "url": manifest["url"] or content_uri(manifest["content_hash"]),
        "creator": {"@type": "sc:Organization", "name": manifest["creator"]},
        **({"datePublished": manifest["published"]} if manifest.get("published") else {}),
        "version": "1.0.0",
        "citeAs": f"{manifest['name']}, release {manifest['release_id']}, content hash {manifest['content_hash']}.",
        "isLiveDataset": False,
        "keywords": ["interatomic potentials", "density functional theory", "solid electrolytes"],
        "distribution": [_file(name, path) for name, path in files.items()],
        "recordSet": [_splits(files), *(_records(name) for name in files)],
    }


def content_uri(digest: str) -> str:
    """Return the RFC 6920 name of what has this SHA-256 (hexadecimal): here the release's ``frames.tsv``."""
    return "ni:///sha-256;" + base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")


def _licenses(manifest: Mapping[str, Any]) -> Any:
    """Return the URL of the one license, or those of all where sources have several."""
    listed = sorted(set(manifest.get("licenses", {}).values())) or [manifest["license"]]
    found = [_license(name) for name in listed]
    return found[0] if len(found) == 1 else found


def _license(identifier: str) -> str:
    names = {"cc-by-4.0": "CC-BY-4.0", "cc0-1.0": "CC0-1.0", "mit": "MIT", "apache-2.0": "Apache-2.0"}
    names |= {"bsd-3-clause": "BSD-3-Clause"}
    return f"https://spdx.org/licenses/{names[identifier]}.html" if identifier in names else identifier


def _file(name: str, path: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": f"{name}.parquet",
        "name": f"{name}.parquet",
        "description": f"The rows of {name}.",
        "contentUrl": f"data/{name}.parquet",
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file_sha256(path),
    }


def _splits(files: Mapping[str, Path]) -> dict[str, Any]:
    urls = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "test": "cr:TestSplit"}
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "The sets of the release; hold-outs are test sets of their own.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {"@type": "cr:Field", "@id": "splits/name", "name": "splits/name", "dataType": "sc:Text"},
            {"@type": "cr:Field", "@id": "splits/url", "name": "splits/url", "dataType": "sc:URL"},
        ],
        "data": [{"splits/name": name, "splits/url": urls.get(name, "cr:TestSplit")} for name in files],
    }


def _records(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"One record a configuration of {split}.",
        "key": {"@id": f"{split}/label_id"},
        "field": [_field(split, column) for column in COLUMNS],
    }


def _field(split: str, column: Column) -> dict[str, Any]:
    kind = column.type
    types = {"string": "sc:Text", "int16": "sc:Integer", "int32": "sc:Integer", "double": "sc:Float"}
    while pa.types.is_list(kind):
        kind = kind.value_type
    found = {
        "@type": "cr:Field",
        "@id": f"{split}/{column.name}",
        "name": f"{split}/{column.name}",
        "description": column.meaning,
        "dataType": types[str(kind)],
        "source": {"fileObject": {"@id": f"{split}.parquet"}, "extract": {"column": column.name}},
    }
    return found | ({"isArray": True, "arrayShape": column.shape} if column.shape else {})
