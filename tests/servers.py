"""Servers that tests start on this machine: one that speaks the Hub's interface, and one that speaks Zenodo's."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_a-token-that-must-not-be-printed"


class Handler(BaseHTTPRequestHandler):
    """Answers with what the routes of a service say."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        sent = {"Content-Length": str(len(data))} | (headers or {})
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def content(self, data: bytes, headers: dict[str, str]) -> None:
        """Answer with a file, or with the part of it that was asked for."""
        service = self.server.service  # type: ignore[attr-defined]
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(start[1]) if start else 0
        if self.command == "GET":
            service.served.append((unquote(urlsplit(self.path).path), first))
        part = data[first:]
        cut = service.cut_downloads
        self.send_response(206 if start else 200)
        sent = headers | {"Content-Length": str(len(part)), "Accept-Ranges": "bytes"}
        sent |= {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if start else {}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part[:cut] if cut is not None else part)
            if cut is not None:
                self.close_connection = True

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service = self.server.service  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        service.asked.append((self.command, path))
        for method, pattern, route in service.routes():
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split("|"):
                route(self, body, *found.groups())
                return
        self.answer(404, {"error": "no such page", "message": "no such page"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do  # noqa: N815 - the names that http.server looks for


@contextmanager
def running(service: Any) -> Iterator[Any]:
    """Run a service and give it its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.service = service  # type: ignore[attr-defined]
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@dataclass
class Service:
    """What both have in common."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    served: list[tuple[str, int]] = field(default_factory=list)
    cut_downloads: int | None = None
    stall_at_upload: int | None = None
    damage: bool = False
    uploads: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def allowed(self, handler: Handler) -> bool:
        return handler.headers.get("Authorization") == f"Bearer {TOKEN}"

    def received(self, name: str, body: bytes) -> bytes:
        """Note an upload, and keep the sender waiting where a test wants to kill it."""
        if self.stall_at_upload is not None and len(self.uploads) >= self.stall_at_upload:
            self.stalled.set()
            self.go_on.wait(60)
            raise ConnectionAbortedError
        self.uploads.append(name)
        return bytes(len(body)) if self.damage else body


@dataclass
class Hub(Service):
    """Repositories with commits; files above 1 kB and Parquet are large ones."""

    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def routes(self) -> list[tuple[str, str, Any]]:
        kind = "(datasets|models)"
        name = r"([\w.-]+/[\w.-]+)"
        return [
            ("POST", "/api/repos/create", self.create),
            ("POST", "/api/validate-yaml", lambda h, _: h.answer(200, {"errors": [], "warnings": []})),
            ("GET", f"/api/{kind}/{name}(?:/revision/(.+))?", self.info),
            ("GET", f"/api/{kind}/{name}/tree/(.+)", self.tree),
            ("POST", f"/api/{kind}/{name}/preupload/(.+)", self.preupload),
            ("POST", f"/api/{kind}/{name}/commit/(.+)", self.commit),
            ("POST", r"/(?:datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", "/objects/([0-9a-f]{64})", self.put),
            ("POST", "/objects/verify", self.verify),
            ("GET|HEAD", r"/(?:datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
        ]

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> str:
        """Make a repository with files, as if someone had pushed them."""
        repo = self.repos.setdefault(name, {"private": private, "commits": []})
        entries = {path: self._stored(data, large=len(data) > 1000) for path, data in files.items()}
        return self._committed(repo, entries)

    def files(self, name: str, commit: str | None = None) -> dict[str, bytes]:
        """Return the content of a commit's files."""
        return {path: self.objects[e["sha256"]] for path, e in self._commit(name, commit or "main")[1].items()}

    def _stored(self, data: bytes, large: bool) -> dict[str, Any]:
        sha = hashlib.sha256(data).hexdigest()
        self.objects[sha] = data
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"sha256": sha, "size": len(data), "git": git, "large": large}

    def _committed(self, repo: dict[str, Any], entries: dict[str, Any]) -> str:
        text = json.dumps([entries, len(repo["commits"])], sort_keys=True)
        commit = hashlib.sha1(text.encode()).hexdigest()
        repo["commits"].append((commit, entries))
        return commit

    def _commit(self, name: str, revision: str) -> tuple[str, dict[str, Any]]:
        commits = self.repos[name]["commits"]
        if revision == "main":
            return commits[-1] if commits else ("0" * 40, {})
        return next((c for c in commits if c[0] == revision), ("", {}))

    def _visible(self, handler: Handler, name: str) -> bool:
        repo = self.repos.get(name)
        if repo is None or (repo["private"] and not self.allowed(handler)):
            handler.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return False
        return True

    def _writes(self, handler: Handler) -> bool:
        if not self.allowed(handler):
            handler.answer(401, {"error": "Invalid username or password."})
        return self.allowed(handler)

    def create(self, handler: Handler, body: bytes) -> None:
        if not self._writes(handler):
            return
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.repos:
            handler.answer(409, {"url": f"{self.url}/datasets/{name}", "error": "exists"})
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.repos[name] = {"private": bool(private), "commits": [], "type": asked.get("type")}
        attributes = {".gitattributes": self._stored(b"*.parquet filter=lfs\n", large=False)}
        self._committed(self.repos[name], attributes)
        handler.answer(200, {"url": f"{self.url}/datasets/{name}", "name": name, "id": name})

    def info(self, handler: Handler, body: bytes, kind: str, name: str, revision: str | None) -> None:
        if self._visible(handler, name):
            commit, entries = self._commit(name, revision or "main")
            if not commit:
                handler.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [{"rfilename": path} for path in entries]
            answer = {"id": name, "sha": commit, "private": self.repos[name]["private"], "siblings": siblings}
            handler.answer(200, answer)

    def tree(self, handler: Handler, body: bytes, kind: str, name: str, revision: str) -> None:
        if self._visible(handler, name):
            rows = []
            for path, e in self._commit(name, revision)[1].items():
                row: dict[str, Any] = {"type": "file", "path": path, "size": e["size"], "oid": e["git"]}
                if e["large"]:
                    row |= {"oid": "1" * 40, "lfs": {"oid": e["sha256"], "size": e["size"], "pointerSize": 130}}
                rows.append(row)
            handler.answer(200, rows)

    def preupload(self, handler: Handler, body: bytes, kind: str, name: str, revision: str) -> None:
        if self._writes(handler):
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["size"] > 1000 or f["path"].endswith(".parquet") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            handler.answer(200, {"files": files})

    def batch(self, handler: Handler, body: bytes, name: str) -> None:
        if self._writes(handler):
            objects = []
            for o in json.loads(body)["objects"]:
                row: dict[str, Any] = {"oid": o["oid"], "size": o["size"]}
                if o["oid"] not in self.objects:
                    row["actions"] = {
                        "upload": {"href": f"{self.url}/objects/{o['oid']}"},
                        "verify": {"href": f"{self.url}/objects/verify"},
                    }
                objects.append(row)
            handler.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, handler: Handler, body: bytes, oid: str) -> None:
        self.objects[oid] = self.received(oid, body)
        handler.answer(200)

    def verify(self, handler: Handler, body: bytes) -> None:
        handler.answer(200 if json.loads(body)["oid"] in self.objects else 404)

    def commit(self, handler: Handler, body: bytes, kind: str, name: str, revision: str) -> None:
        if not self._writes(handler):
            return
        entries = dict(self._commit(name, "main")[1])
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                entries[value["path"]] = self._stored(base64.b64decode(value["content"]), large=False)
            elif row["key"] == "lfsFile":
                data = self.objects[value["oid"]]
                # the server trusts what it received, so that damage on the way shows in the tree
                entries[value["path"]] = self._stored(data, large=True)
            elif row["key"] == "deletedFile":
                entries.pop(value["path"])
        commit = self._committed(self.repos[name], entries)
        handler.answer(
            200, {"commitUrl": f"{self.url}/datasets/{name}/commit/{commit}", "commitOid": commit, "success": True}
        )

    def resolve(self, handler: Handler, body: bytes, name: str, revision: str, path: str) -> None:
        if self._visible(handler, name):
            commit, entries = self._commit(name, revision)
            if path not in entries:
                handler.answer(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                return
            e = entries[path]
            etag = e["sha256"] if e["large"] else e["git"]
            handler.content(self.objects[e["sha256"]], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})


@dataclass
class Zenodo(Service):
    """Deposits with a bucket each; published ones are records."""

    deposits: dict[int, dict[str, Any]] = field(default_factory=dict)
    data: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def routes(self) -> list[tuple[str, str, Any]]:
        number = r"(\d+)"
        return [
            ("GET", "/api/deposit/depositions", self.list),
            ("POST", "/api/deposit/depositions", self.create),
            ("GET", f"/api/deposit/depositions/{number}", self.get),
            ("POST", f"/api/deposit/depositions/{number}/actions/publish", self.publish),
            ("DELETE", f"/api/deposit/depositions/{number}/files/(.+)", self.delete),
            ("PUT", f"/api/files/{number}/(.+)", self.put),
            ("GET", f"/api/files/{number}/(.+)", self.read),
            ("GET", f"/api/records/{number}", self.record),
            ("GET", f"/api/records/{number}/files/(.+)/content", self.content),
        ]

    def _mine(self, handler: Handler) -> bool:
        if not self.allowed(handler):
            handler.answer(401, {"message": "The server could not verify that you are authorized", "status": 401})
        return self.allowed(handler)

    def _shown(self, number: int, whole: bool = True) -> dict[str, Any]:
        files = [
            {"id": f"id-{n}", "filename": n, "filesize": len(d), "checksum": hashlib.md5(d).hexdigest()}
            for n, d in self.data[number].items()
        ]
        return self.deposits[number] | ({"files": files} if whole else {})

    def list(self, handler: Handler, body: bytes) -> None:
        if self._mine(handler):
            query = parse_qs(urlsplit(handler.path).query)
            page, size = int(query["page"][0]), int(query["size"][0])
            rows = [self._shown(n, whole=False) for n in self.deposits]
            handler.answer(200, rows[(page - 1) * size : page * size])

    def create(self, handler: Handler, body: bytes) -> None:
        if not self._mine(handler):
            return
        metadata = json.loads(body)["metadata"]
        missing = [n for n in ("title", "upload_type", "description", "creators", "license") if not metadata.get(n)]
        if missing:
            errors = [{"field": f"metadata.{n}", "message": "Missing data"} for n in missing]
            handler.answer(400, {"message": "Validation error.", "errors": errors})
            return
        number = 1000 + len(self.deposits)
        doi = f"10.5072/zenodo.{number}"
        self.deposits[number] = {
            "id": number,
            "submitted": False,
            "metadata": metadata | {"prereserve_doi": {"doi": doi, "recid": number}},
            "links": {"bucket": f"{self.url}/api/files/{number}", "html": f"{self.url}/deposit/{number}"},
        }
        self.data[number] = {}
        handler.answer(201, self._shown(number))

    def get(self, handler: Handler, body: bytes, number: str) -> None:
        if self._mine(handler):
            known = int(number) in self.deposits
            handler.answer(200 if known else 404, self._shown(int(number)) if known else {"message": "not found"})

    def put(self, handler: Handler, body: bytes, number: str, name: str) -> None:
        if self._mine(handler):
            self.data[int(number)][name] = self.received(name, body)
            handler.answer(201, {"key": name, "checksum": f"md5:{hashlib.md5(body).hexdigest()}"})

    def delete(self, handler: Handler, body: bytes, number: str, identity: str) -> None:
        if self._mine(handler):
            self.data[int(number)].pop(identity.removeprefix("id-"))
            handler.answer(204)

    def publish(self, handler: Handler, body: bytes, number: str) -> None:
        if self._mine(handler):
            deposit = self.deposits[int(number)]
            deposit |= {"submitted": True, "doi": deposit["metadata"]["prereserve_doi"]["doi"]}
            handler.answer(202, self._shown(int(number)))

    def read(self, handler: Handler, body: bytes, number: str, name: str) -> None:
        if self._mine(handler):
            handler.content(self.data[int(number)][name], {})

    def record(self, handler: Handler, body: bytes, number: str) -> None:
        deposit = self.deposits.get(int(number))
        if deposit is None or not deposit["submitted"]:
            handler.answer(404, {"message": "The persistent identifier does not exist.", "status": 404})
            return
        files = [
            {
                "key": n,
                "size": len(d),
                "checksum": f"md5:{hashlib.md5(d).hexdigest()}",
                "links": {"self": f"{self.url}/api/records/{number}/files/{n}/content"},
            }
            for n, d in self.data[int(number)].items()
        ]
        handler.answer(200, {"id": int(number), "doi": deposit["doi"], "files": files})

    def content(self, handler: Handler, body: bytes, number: str, name: str) -> None:
        handler.content(self.data[int(number)][name], {})
