"""Where things live: the environment (and `.env`), read once.

What changes a model is not here but in its home's `params.yaml` (pipeline/params.py).
Unknown keys in `.env`, and unknown `EMEND_` variables, fail at start by name. Secrets print as `***`,
addresses that may hold one not at all.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from core.errors import ConfigurationError
from core.validation import told


def _service_url(value: str) -> str:
    """`http://host:port`, without the slash at its end. Raises ValueError for a path, a user, or no host."""
    try:
        parts = urlsplit(value)
        plain = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        plain = plain and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        plain = False
    if not plain or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must be http://host or https://host, with a port where it has one, and no path")
    return f"{parts.scheme}://{parts.netloc}"


def _service_urls(value: str) -> str:
    """Several, separated by commas. Raises ValueError, also for one that is named twice."""
    urls = [_service_url(url.strip()) for url in value.split(",") if url.strip()]
    if len(set(urls)) < len(urls):
        raise ValueError("names a server twice")
    return ",".join(urls)


Port = Annotated[int, Field(ge=1, le=65535)]
ServiceUrl = Annotated[str, AfterValidator(_service_url)]
ServiceUrls = Annotated[str, AfterValidator(_service_urls)]


def _named(name: str) -> AliasChoices:
    return AliasChoices(name)


# May stand in the same `.env`, which docker-compose.yml reads too; no service of ours takes them. The first ones are
# made by deploy/make_secrets.py, the others have their defaults and reasons in deploy/nginx/nginx.env.
COMPOSE_NAMES = (
    *("POSTGRES_PASSWORD", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "GRAFANA_ADMIN_PASSWORD"),
    *("PGADMIN_PASSWORD", "EMEND_ADMIN_USER", "EMEND_ADMIN_PASSWORD", "EMEND_ADMIN_HASH"),
    *("COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "TORCH", "PROMETHEUS_RETENTION"),
    *("PGADMIN_EMAIL", "PGADMIN_PORT", "EMEND_VERSION", "EMEND_TRAINING_MEMORY", "EMEND_MLFLOW_HOSTS"),
    *("EMEND_BIND", "EMEND_PORT", "EMEND_PUBLIC_HOST"),
    *("EMEND_NGINX_RESOLVER", "EMEND_NGINX_PORT", "EMEND_NGINX_TLS_PORT"),
    *("EMEND_GATEWAYS", "EMEND_VIEWERS", "EMEND_PAGES", "EMEND_MLFLOW", "EMEND_GRAFANA"),
    *("EMEND_OBJECTS", "EMEND_BUCKET"),
    *("EMEND_PREDICTIONS_PER_SECOND", "EMEND_PREDICTIONS_BURST"),
    *("EMEND_CORRECTIONS_PER_SECOND", "EMEND_CORRECTIONS_BURST"),
    *("EMEND_CONNECTIONS_PER_ADDRESS", "EMEND_SLOW_CLIENT_SECONDS"),
    *("EMEND_TLS_CERTIFICATE", "EMEND_TLS_KEY", "EMEND_TLS_FOLDER", "EMEND_TLS_PORT", "EMEND_ACME_FOLDER"),
)


RENAMED = {"EMEND_SERVING_URL": "MODEL_SERVER_URLS"}


class _EnvFile(DotEnvSettingsSource):
    """`.env` without what is only compose's."""

    def __call__(self) -> dict[str, Any]:
        return {
            name: value for name, value in super().__call__().items() if name.upper() not in COMPOSE_NAMES
        }


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="forbid", frozen=True, env_ignore_empty=True)

    # Where state lives.
    data_dir: Path = Field(Path("data"), validation_alias=_named("EMEND_DATA_DIR"))
    database_url_setting: SecretStr | None = Field(None, validation_alias=_named("DATABASE_URL"))
    mlflow_tracking_uri_setting: str | None = Field(
        None, repr=False, validation_alias=_named("MLFLOW_TRACKING_URI")
    )
    dvc_remote_url: str | None = Field(None, repr=False, validation_alias=_named("DVC_REMOTE_URL"))

    # The object store, and what every S3 client reads of it.
    storage_url: str | None = Field(None, validation_alias=_named("STORAGE_URL"))
    storage_public_url: str | None = Field(None, validation_alias=_named("STORAGE_PUBLIC_URL"))
    aws_access_key_id: str | None = Field(None, validation_alias=_named("AWS_ACCESS_KEY_ID"))
    aws_secret_access_key: SecretStr | None = Field(None, validation_alias=_named("AWS_SECRET_ACCESS_KEY"))
    aws_endpoint_url: str | None = Field(None, validation_alias=_named("AWS_ENDPOINT_URL"))
    aws_region: str | None = Field(None, validation_alias=_named("AWS_DEFAULT_REGION"))

    # Who listens where. Loopback unless told otherwise.
    host: str = Field("127.0.0.1", validation_alias=_named("EMEND_HOST"))
    api_port: Port = Field(8000, validation_alias=_named("EMEND_API_PORT"))
    serving_port: Port = Field(5002, validation_alias=_named("EMEND_SERVING_PORT"))
    mlflow_port: Port = Field(5000, validation_alias=_named("EMEND_MLFLOW_PORT"))
    viewer_port: Port = Field(9081, validation_alias=_named("EMEND_VIEWER_PORT"))
    ui_port: Port = Field(9080, validation_alias=_named("EMEND_UI_PORT"))
    orchestrator_port: Port = Field(9108, validation_alias=_named("EMEND_ORCHESTRATOR_PORT"))
    model_server_urls_setting: ServiceUrls | None = Field(None, validation_alias=_named("MODEL_SERVER_URLS"))
    api_url_setting: ServiceUrl | None = Field(None, validation_alias=_named("EMEND_API_URL"))
    viewer_url_setting: ServiceUrl | None = Field(None, validation_alias=_named("EMEND_VIEWER_URL"))
    ui_url_setting: ServiceUrl | None = Field(None, validation_alias=_named("EMEND_UI_URL"))
    orchestrator_url_setting: ServiceUrl | None = Field(
        None, validation_alias=_named("EMEND_ORCHESTRATOR_URL")
    )
    public_url: ServiceUrl | None = Field(None, validation_alias=_named("EMEND_PUBLIC_URL"))
    default_model: str = Field("doodles", validation_alias=_named("EMEND_DEFAULT_MODEL"))

    # How much, how long.
    max_body_bytes: int = Field(10_000_000, validation_alias=_named("EMEND_MAX_BODY_BYTES"))
    starter_drawings: int = Field(1_200, ge=20, validation_alias=_named("EMEND_STARTER_DRAWINGS"))
    history_days: int = Field(30, ge=1, validation_alias=_named("EMEND_HISTORY_DAYS"))
    schedule_tz: str = Field("UTC", validation_alias=_named("SCHEDULE_TZ"))

    # Telling people.
    log_format: Literal["auto", "json", "pretty"] = Field("auto", validation_alias=_named("LOG_FORMAT"))
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=_named("LOG_LEVEL")
    )
    sentry_dsn: SecretStr | None = Field(None, validation_alias=_named("SENTRY_DSN"))
    sentry_environment: str = Field("production", validation_alias=_named("SENTRY_ENVIRONMENT"))
    docker_url: str | None = Field(None, validation_alias=_named("EMEND_DOCKER_URL"))
    docker_project: str = Field("emend", validation_alias=_named("EMEND_DOCKER_PROJECT"))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _EnvFile(settings_cls)

    @field_validator("schedule_tz")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError) as exc:
            raise ValueError(f"{value!r} is not an IANA time zone, e.g. Europe/Berlin") from exc
        return value

    @field_validator("docker_url")
    @classmethod
    def _an_engines_address(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("unix", "tcp", "http", "https"):
            raise ValueError("it looks like tcp://socket-proxy:2375 or unix:///var/run/docker.sock")
        return value

    @field_validator("storage_url")
    @classmethod
    def _an_s3_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc:
            raise ValueError(
                "it looks like s3://bucket/prefix; the keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return value.rstrip("/")

    @property
    def database_url(self) -> str:
        """The DATABASE_URL, else the embedded server's own address (which must be running)."""
        if self.database_url_setting is not None:
            return sqlalchemy_url(self.database_url_setting.get_secret_value())
        return embedded_database_url(self.data_dir)

    @property
    def mlflow_tracking_uri(self) -> str:
        return self.mlflow_tracking_uri_setting or url_of(self.host, self.mlflow_port)

    @property
    def mlflow_display_url(self) -> str:
        """For pages, answers and terminals: below the public address, else without user and password."""
        if self.public_url is not None:
            return f"{self.public_url}/mlflow"
        parts = urlsplit(self.mlflow_tracking_uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def storage_links_url(self) -> str | None:
        """What links to objects begin with. A name without a dot is a container's: nginx passes those links on."""
        if self.storage_public_url is not None or self.aws_endpoint_url is None:
            return self.storage_public_url
        inside = "." not in (urlsplit(self.aws_endpoint_url).hostname or "")
        return self.public_url if inside and self.public_url is not None else self.aws_endpoint_url

    @property
    def model_server_urls(self) -> tuple[str, ...]:
        """At least one."""
        given = self.model_server_urls_setting
        return tuple(given.split(",")) if given else (url_of(self.host, self.serving_port),)

    @property
    def api_url(self) -> str:
        return self.api_url_setting or url_of(self.host, self.api_port)

    @property
    def viewer_url(self) -> str:
        return self.viewer_url_setting or url_of(self.host, self.viewer_port)

    @property
    def ui_url(self) -> str:
        return self.ui_url_setting or url_of(self.host, self.ui_port)

    @property
    def orchestrator_url(self) -> str:
        return self.orchestrator_url_setting or url_of(self.host, self.orchestrator_port)


def url_of(host: str, port: int) -> str:
    """Where this machine reaches a service that listens on `host`: loopback when that is every address."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def sqlalchemy_url(url: str, database: str | None = None) -> str:
    """The URL with the driver we ship: plain `postgresql://` would mean psycopg 3 to SQLAlchemy 2.1."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            url = "postgresql+psycopg2://" + url.removeprefix(scheme)
    return url


def embedded_database_url(data_dir: Path, database: str = "emend") -> str:
    """Address of the embedded PostgreSQL, from the socket directory its postmaster.pid names."""
    pid_file = data_dir / "postgres" / "postmaster.pid"
    try:
        port, socket_dir = pid_file.read_text().splitlines()[3:5]
    except (OSError, ValueError) as exc:  # absent, or half written
        raise ConfigurationError(
            "no database: DATABASE_URL is not set and no embedded PostgreSQL runs in "
            f"{data_dir.resolve() / 'postgres'}; start it with `make up`, run "
            "this where it runs (or set EMEND_DATA_DIR to its data folder), or set DATABASE_URL"
        ) from exc
    if socket_dir:
        return f"postgresql+psycopg2://postgres@/{database}?host={quote(socket_dir, safe='')}&port={port}"
    return f"postgresql+psycopg2://postgres@127.0.0.1:{port}/{database}"


def _reject_unknown_environment() -> None:
    known = {
        choice
        for field in Settings.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for choice in field.validation_alias.choices
    }
    known.update(COMPOSE_NAMES)
    unknown = sorted(name for name in os.environ if name.startswith("EMEND_") and name not in known)
    if unknown:
        told_of = ", ".join(_with_new_name(name) for name in unknown)
        raise ConfigurationError(
            f"unknown setting {told_of} in the environment; the known ones are in .env.example"
        )


def _with_new_name(name: str) -> str:
    new = RENAMED.get(name.upper())
    return name if new is None else f"{name} (it is {new} now)"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Raises ConfigurationError that names every key at fault."""
    _reject_unknown_environment()
    try:
        return Settings()
    except ValidationError as exc:
        faults = "; ".join(told(_with_new_name(".".join(str(p) for p in e["loc"])), e) for e in exc.errors())
        raise ConfigurationError(f"settings: {faults}; the known ones are in .env.example") from exc
