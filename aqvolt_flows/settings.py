"""Where things are: ``aqvolt.yaml`` and ``AQVOLT_…`` variables; no science is configured here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from aqvolt_flows.errors import ConfigError, DatabaseError
from aqvolt_flows.yaml_files import read_mapping

CONFIG_NAME = "aqvolt.yaml"
CONFIG_VARIABLE = "AQVOLT_CONFIG_FILE"
#: The only user of the embedded database, in its database ``admin``.
EMBEDDED_USER = "aqvolt"


class AqvoltSettings(BaseSettings):
    """Settings of one project folder.

    Precedence: ``AQVOLT_…`` environment variables, then ``aqvolt.yaml``, then these defaults. Relative
    paths are relative to the folder that holds ``aqvolt.yaml`` (or the working directory without one).
    """

    model_config = SettingsConfigDict(env_prefix="AQVOLT_", extra="forbid", frozen=True, allow_inf_nan=False)
    _file: ClassVar[Path | None] = None

    mongo_uri: str | None = Field(default=None, description="MongoDB URI; absent: the embedded database.")
    database: str = Field(default="aqvolt", description="Database name, unless the URI names one.")
    root: Path = Field(default=Path(), description="The project folder.")
    artifact_root: str = Field(default="artifacts", description="Folder or fsspec URL of the artifact store.")
    release_root: Path = Field(default=Path("releases"), description="Where release folders are written.")
    database_dir: Path = Field(default=Path(".aqvolt/db"), description="Files of the embedded database.")
    launch_dir: Path = Field(default=Path(".aqvolt/launches"), description="Where workers run Fireworks.")
    checkpoint_dir: Path = Field(
        default=Path(".aqvolt/checkpoints"), description="Checkpoints of running batches; all workers must see it."
    )
    walltime_s: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        description="Seconds after which a running batch ends its segment and queues the next.",
    )
    stop_before_s: float = Field(
        default=120.0, ge=0, description="A training stops this long before its Slurm allocation ends."
    )
    campaign: str = Field(default="aqvolt26", description="Campaign file, or the name of one that is shipped.")
    default_potential: str = Field(default="7net-mf-0/R2SCAN", description="Used where a command is given none.")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1 …; auto: cuda where there is one.")
    job_packages: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Packages whose jobs workers run, besides ours, atomate2's and jobflow's."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=86_400, description="How long to wait for the database.")

    @field_validator("job_packages", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """Read a list, or names with commas between them as in AQVOLT_JOB_PACKAGES."""
        return tuple(n.strip() for n in value.split(",") if n.strip()) if isinstance(value, str) else value

    @field_validator("job_packages")
    @classmethod
    def _packages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if strange := [name for name in value if not name.isidentifier()]:
            raise ValueError(f"{strange[0]!r} is no name of a package; expected names such as my_package")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings gives all of them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let environment variables win over ``aqvolt.yaml``, which arrives as init arguments."""
        return env_settings, init_settings

    def path(self, value: str | Path) -> Path:
        """Return ``value`` resolved against the project folder."""
        return (self.root / Path(value)).resolve()

    @property
    def artifact_url(self) -> str:
        """The artifact store's root: a URL as given, or an absolute folder."""
        return self.artifact_root if "://" in self.artifact_root else str(self.path(self.artifact_root))

    @property
    def server_file(self) -> Path:
        """The record of the embedded server: PID, port, URI without the password."""
        return self.path(self.database_dir) / "server.json"

    @property
    def password_file(self) -> Path:
        """The embedded database's password, readable by its owner only."""
        return self.path(self.database_dir) / "password"

    def database_uri(self) -> str:
        """Return the URI to connect to.

        Raises
        ------
        DatabaseError
            If no URI is configured and no embedded server is recorded for this folder.
        """
        if self.mongo_uri:
            return self.mongo_uri
        try:
            record = json.loads(self.server_file.read_text())
            return self.with_password(str(record["uri"]), record.get("user"))
        except (FileNotFoundError, NotADirectoryError):
            raise DatabaseError(
                f"No database: AQVOLT_MONGO_URI is not set and no embedded database runs in {self.path('.')}; "
                "start one "
                "with 'aqvolt db start' or set mongo_uri in aqvolt.yaml."
            ) from None
        except PermissionError:
            raise DatabaseError(
                f"The embedded database in {self.path(self.database_dir)} belongs to another user, and only they can "
                "use it; set AQVOLT_MONGO_URI to a MongoDB that several people share."
            ) from None
        except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
            raise DatabaseError(
                f"{self.server_file} is not a server record ({error}); run 'aqvolt db stop' and 'aqvolt db start'."
            ) from None

    def with_password(self, uri: str, user: str | None) -> str:
        """Return an embedded server's URI with user and password; as it is for one of version 0.1, without a user."""
        if not user:
            return uri
        try:
            password = self.password_file.read_text().strip()
        except FileNotFoundError:
            raise DatabaseError(
                f"{self.password_file} is gone, and the embedded database asks for the password in it; restore the "
                "file, or run 'aqvolt db stop', then 'aqvolt db start', which makes a new one."
            ) from None
        scheme, _, rest = uri.partition("://")
        return f"{scheme}://{user}:{password}@{rest}{'&' if '?' in rest else '?'}authSource=admin"

    def resolve_device(self) -> str:
        """Return the torch device to use, resolving ``auto``."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"


def find_config(start: Path | None = None) -> Path | None:
    """Return the ``aqvolt.yaml`` named by AQVOLT_CONFIG_FILE, or the nearest one from ``start`` upwards."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"{CONFIG_VARIABLE} names {named}, which is not a file; correct it or unset it.")
        return Path(named).resolve()
    here = (start or Path.cwd()).resolve()
    return next((p / CONFIG_NAME for p in (here, *here.parents) if (p / CONFIG_NAME).is_file()), None)


def load_settings(config: Path | None = None, **overrides: Any) -> AqvoltSettings:
    """Return the settings of a folder.

    Parameters
    ----------
    config
        Path of an ``aqvolt.yaml``; by default the one :func:`find_config` finds, if any.
    **overrides
        Values that win over the file (environment variables win over both).

    Raises
    ------
    ConfigError
        If the file is not YAML, holds an unknown key or a value of the wrong kind.
    """
    file = config or find_config()
    values: dict[str, Any] = {"root": Path.cwd()}
    if file is not None:
        values |= {"root": file.parent, **read_mapping(file, "'key: value' lines")}
    values |= overrides
    try:
        return AqvoltSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(AqvoltSettings.model_fields)
        said = "is not a setting" if first["type"] == "extra_forbidden" else f"is wrong: {first['msg'].lower()}"
        raise ConfigError(f"{file or 'AQVOLT_… variables'}: {name} {said}; known settings are {known}.") from None
