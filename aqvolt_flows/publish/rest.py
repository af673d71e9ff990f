"""HTTP with the standard library: JSON, streamed uploads, downloads that go on; a token goes to its own host only."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aqvolt_flows.errors import InputError, ResourceError

_BLOCK = 1 << 20
_TIMEOUT_S = 60.0


class _OwnHostOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects without the token where they lead to another host."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urlsplit(made.full_url).netloc != urlsplit(req.full_url).netloc:
            made.remove_header("Authorization")
        return made


class Rest:
    """A service.

    Parameters
    ----------
    name
        For messages.
    url
        Of the interface, without a slash at the end.
    token
        Sent to the host of ``url`` only; never part of a message.

    Raises
    ------
    InputError
        If the address is not HTTPS (but for this machine, where tests are).
    """

    def __init__(self, name: str, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in {"127.0.0.1", "localhost"}:
            raise InputError(f"{name} is at {url}, which is not https; a token must not be sent there.")
        self.name, self.url, self._token = name, url.rstrip("/"), token
        self._host = parts.netloc
        self._opener = urllib.request.build_opener(_OwnHostOnly())

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON that a call answers with; None for an empty answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        with self._open(method, path, headers, data) as answer:
            text = answer.read()
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise ResourceError(
                f"{self.name} answered {path} with something that is not JSON; try again later."
            ) from None

    def upload(self, path: str, file: Path, size: int) -> Any:
        """PUT a file, streamed, and return the JSON of the answer."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with file.open("rb") as handle, self._open("PUT", path, headers, handle) as answer:
            return json.loads(answer.read() or b"null")

    def download(self, path: str, target: Path, size: int, md5: str) -> None:
        """Write a file, going on behind what an earlier call wrote; it takes its name when size and hash are right.

        Raises
        ------
        ResourceError
            If the connection breaks (what came is kept), or what came has another hash (it is removed).
        """
        part = target.with_name(f".{target.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        there = part.stat().st_size if part.is_file() else 0
        if there < size or not there:
            headers = {"Range": f"bytes={there}-"} if there else {}
            with self._open("GET", path, headers) as answer, part.open("ab" if answer.status == 206 else "wb") as out:
                while block := answer.read(_BLOCK):
                    out.write(block)
        arrived = part.stat().st_size
        if arrived < size:  # the library says nothing when a connection ends early
            raise ResourceError(
                f"{target.name} of {self.name} broke off at {arrived} of {size} bytes; run the same command again."
            )
        digest = hashlib.md5(usedforsecurity=False)
        with part.open("rb") as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != md5:
            part.unlink()
            raise ResourceError(f"{target.name} of {self.name} arrived damaged; run the same command again.")
        part.replace(target)

    @contextmanager
    def _open(self, method: str, path: str, headers: Mapping[str, str], data: Any = None) -> Iterator[Any]:
        url = path if "://" in path else f"{self.url}{path}"
        own = urlsplit(url).netloc == self._host
        sent = dict(headers) | ({"Authorization": f"Bearer {self._token}"} if self._token and own else {})
        request = urllib.request.Request(url, data=data, headers=sent, method=method)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise HttpError(self.name, method, urlsplit(url).path, error.code, _message(error)) from None
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise ResourceError(f"{self.name} could not be reached ({reason}); run the same command again.") from None


class HttpError(ResourceError):
    """A service answered with an error.

    Attributes
    ----------
    status
        HTTP's number.
    """

    def __init__(self, name: str, method: str, path: str, status: int, said: str) -> None:
        self.status = status
        hint = {401: "check the token", 403: "the token may not do this", 404: "check the number of the record"}
        more = f" ({said})" if said else ""
        super().__init__(f"{name} answered {status} to {method} {path}{more}; {hint.get(status, 'try again later')}.")


def _message(error: urllib.error.HTTPError) -> str:
    try:
        body = json.loads(error.read() or b"{}")
    except (ValueError, OSError):
        return ""
    if not isinstance(body, dict):
        return ""
    faults = [f"{e.get('field')}: {e.get('message')}" for e in body.get("errors") or [] if isinstance(e, dict)]
    return "; ".join([str(body.get("message", "")), *faults]).strip("; ")[:300]
