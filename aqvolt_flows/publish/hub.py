"""The Hugging Face Hub: a repository whose files are those of the folder, and nothing else.

Large files go first, one by one, and stay on the server when a push is killed; a single commit at the end names them
all, so that the repository never shows half a release. After it the tree of that commit is compared by hashes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.publish.content import Content, PublishedFile
from aqvolt_flows.publish.targets import Plan, Tell, hub_reference
from aqvolt_flows.schemas.publication import Publication

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: The server's own file, in every repository.
_SERVERS = ".gitattributes"


class HubTarget:
    """A repository on the Hub.

    Parameters
    ----------
    repo
        ``ORG/NAME``.
    revision
        Branch, tag or commit; by default ``main``.
    repo_type
        ``dataset`` or ``model``.
    public
        Whether a repository that is made is public; one that is there stays as it is.
    """

    def __init__(
        self, repo: str, revision: str | None = None, repo_type: str = "dataset", public: bool = False
    ) -> None:
        self.repo, self.revision, self.repo_type, self.public = repo, revision, repo_type, public
        self.name = f"hf:{repo}" + (f"@{revision}" if revision else "")

    def plan(self, content: Content) -> Plan:
        """Return which files would be uploaded, kept and removed; changes nothing."""
        api = _api()
        with _explained(self.name):
            known = api.repo_exists(self.repo, repo_type=self.repo_type)
            present = self._tree(api, self.revision) if known else {}
        keep = tuple(f for f in content.files if f.name in present and _is(present[f.name], f))
        upload = tuple(f for f in content.files if f not in keep)
        remove = tuple(sorted(present.keys() - {f.name for f in content.files} - {_SERVERS}))
        seen = "public" if self.public else "private (make it public on its page, or with --public)"
        notes = () if known else (f"A new {self.repo_type} repository is made, {seen}.",)
        return Plan(self.name, upload, keep, remove, notes)

    def push(self, content: Content, tell: Tell) -> Publication:
        """Upload, commit, and compare the commit's tree by hashes.

        Raises
        ------
        ResourceError
            If there is no token, the Hub refuses, or what arrived differs.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = _api(writing=True)
        options: dict[str, Any] = {"repo_type": self.repo_type}
        with _explained(self.name):
            api.create_repo(self.repo, private=not self.public, exist_ok=True, **options)
            plan = self.plan(content)
            additions = []
            for file in plan.upload:
                addition = CommitOperationAdd(file.name, str(file.path))
                api.preupload_lfs_files(
                    self.repo, [addition], revision=self.revision, num_threads=1, free_memory=False, **options
                )
                additions.append(addition)
                tell(f"uploaded {file.name}")
            removals = [CommitOperationDelete(name) for name in plan.remove]
            if additions or removals:
                message = f"{content.identity}\n\nContent hash {content.content_hash}."
                done = api.create_commit(
                    self.repo, [*additions, *removals], commit_message=message, revision=self.revision, **options
                )
                commit = done.oid
                tell(f"committed {commit}")
            else:
                commit = str(api.repo_info(self.repo, revision=self.revision, **options).sha)
            self._verify(api, content, commit)
            info = api.repo_info(self.repo, **options)
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        return Publication(
            target=f"hf:{self.repo}",
            kind="hub",
            version=commit,
            state="private" if info.private else "public",
            url=f"{api.endpoint}/{prefix}{self.repo}/tree/{commit}",
            files=len(content.files),
            bytes=content.bytes,
        )

    def pull(self, folder: Path, tell: Tell) -> None:
        """Download all files of the revision; files that are whole stay, a file that was cut short goes on."""
        download(self.repo, self.revision, folder, self.repo_type)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        (folder / _SERVERS).unlink(missing_ok=True)
        tell(f"downloaded {self.name}")

    def _verify(self, api: HfApi, content: Content, commit: str) -> None:
        arrived = self._tree(api, commit)
        wrong = [f.name for f in content.files if f.name not in arrived or not _is(arrived[f.name], f)]
        if wrong:
            raise ResourceError(
                f"{self.name}@{commit} differs from {content.folder} in {', '.join(wrong)}; push it again."
            )

    def _tree(self, api: HfApi, revision: str | None) -> dict[str, Any]:
        tree = api.list_repo_tree(self.repo, recursive=True, revision=revision, repo_type=self.repo_type)
        return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}


def download(repo: str, revision: str | None, folder: Path, repo_type: str = "dataset", below: str = "") -> None:
    """Download the files of a repository, or those below a path in it, into a folder.

    Raises
    ------
    ResourceError
        If the Hub does not answer or refuses.
    """
    api = _api()
    patterns = [below, f"{below}/**"] if below else None
    with _explained(f"hf:{repo}"):
        api.snapshot_download(
            repo, repo_type=repo_type, revision=revision, local_dir=folder, allow_patterns=patterns, max_workers=4
        )


def downloaded_dataset(text: str, cache: Path) -> Path:
    """Return the folder, or the file, of a dataset on the Hub, downloaded below ``cache``; a second call is quick.

    Parameters
    ----------
    text
        ``hf:ORG/NAME[@REVISION][/PATH]``.
    cache
        Folder for downloads.

    Raises
    ------
    InputError
        If the text is another, or the repository has nothing at the path.
    ResourceError
        If the Hub does not answer or refuses.
    """
    parts = text.removeprefix("hf:").split("/", 2)
    repo, revision = hub_reference("hf:" + "/".join(parts[:2]))
    below = parts[2].strip("/") if len(parts) > 2 else ""
    if ".." in below.split("/"):
        raise InputError(f"{text!r} leads out of the repository; write the path of a file or folder in it.")
    folder = cache / f"{repo.replace('/', '--')}@{revision or 'main'}"
    download(repo, revision, folder, below=below)
    found = folder / below
    if not found.exists():
        raise InputError(f"hf:{repo} has nothing at {below}; look at its files on the Hub.")
    return found


def _api(writing: bool = False) -> HfApi:
    """Return the Hub's client; its token is that of HF_TOKEN or of the Hub's own file."""
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError:
        raise ResourceError(
            "huggingface_hub is not installed, and hf: needs it; pip install 'aqvolt-flows[hub]'."
        ) from None
    if writing and not get_token():
        raise ResourceError("There is no token for the Hub; set HF_TOKEN, or run 'hf auth login', with write access.")
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the client raises into one sentence, without headers and tokens."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # the HTTP library's own base class; which library it is depends on the version
    transport: type[Exception] = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")  # type: ignore[assignment]
    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no status")
        hint = _HINTS.get(int(status), "try again later") if str(status).isdigit() else "try again later"
        said = (error.server_message or "").strip().split("\n")[0]
        raise ResourceError(f"The Hub answered {status} for {what}{f' ({said})' if said else ''}; {hint}.") from None
    except HFValidationError as error:
        raise InputError(f"{what} is no name on the Hub ({' '.join(str(error).split())}).") from None
    except (transport, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        why = " ".join(str(cause).split()) or type(cause).__name__
        raise ResourceError(
            f"The Hub could not be used for {what} ({why[:200]}); run the same command again."
        ) from None


_HINTS: Mapping[int, str] = {
    401: "set HF_TOKEN or run 'hf auth login'; a private repository looks as if it were not there",
    403: "the token may not write there",
    404: "check its name, and the token if it is private",
    409: "someone else pushes to it; try again",
    413: "a file is too large for the Hub",
}


def _is(entry: Any, file: PublishedFile) -> bool:
    """Return whether what the Hub holds is the file: by SHA-256 of large files, by git's hash of others."""
    if entry.size != file.bytes:
        return False
    return bool(entry.lfs.sha256 == file.sha256 if entry.lfs else entry.blob_id == file.git)
