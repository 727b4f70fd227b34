"""What can be set of the process that follows datacenters live, as one typed model; `settings` fills it from its sources."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

__all__ = [
    "DEFAULT_DATACENTER",
    "SECRET_NAME",
    "ApiSettings",
    "DatacenterSettings",
    "EnvironmentName",
    "FleetSettings",
    "GateSection",
    "KafkaSettings",
    "LogSettings",
    "Mode",
    "OpenAISettings",
    "ResultsSettings",
    "Settings",
    "without_password",
]

DEFAULT_DATACENTER: Final = "datacenter"
SECRET_NAME: Final = re.compile(
    r"password|passwd|secret|token|api_?key|credential|private|\.key\.pem|jaas", re.IGNORECASE
)
"""Names whose values are never shown, wherever they stand."""

Mode = Literal["observe", "advise", "approve", "auto"]
EnvironmentName = Literal["replay", "shadow", "live"]

_HOUR_S: Final = 3600
_NAMED_ABOVE: Final = {"bootstrap.servers": "kafka.bootstrap_servers", "group.id": "kafka.group"}
_PASSWORD_IN_URL: Final = re.compile(r"(?<=://)([^/@:]*):[^/]*(?=@)|(?<=[?&])((?:ssl)?password)=[^&]*")


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("Input should be a number")  # noqa: TRY004 - pydantic would take true for 1, and wants this error
    return value


def _refuse_unknown(section: dict[str, Any], known: Collection[str]) -> None:
    strange = next((name for name in section if name not in known), None)
    if strange is not None:
        raise ValueError(f"one of {', '.join(known)}, not {strange!r}")


Whole = Annotated[int, BeforeValidator(_no_flag)]
Seconds = Annotated[float, BeforeValidator(_no_flag), Field(ge=0, le=31 * 86_400, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""Name of a datacenter: it is a key of messages and a folder of the state directory."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class DatacenterSettings(_Section):
    """One datacenter that is followed: section ``[datacenter.NAME]``."""

    name: Annotated[Name, Field(description="Key of its messages; the name of the section unless given.")]
    topology: Annotated[
        Path | None, Field(description="Topology file, watched for edits. Without one it comes on `dc.topology`.")
    ] = None
    slo: Annotated[
        Path | None, Field(description="Objectives, watched for edits. Without one, modest ones from the datasheet.")
    ] = None
    any_key: Annotated[
        bool,
        Field(
            description="Whether records with other keys are taken for its own too: some producers write a key for each "
            "task. Only where nobody else's records are in the topics."
        ),
    ] = False


class LogSettings(_Section):
    """The embedded log, transport ``log``."""

    directory: Annotated[Path | None, Field(description="Where its topics are. `STATE_DIR/log` unless given.")] = None
    retention_s: Annotated[
        Whole | None, Field(ge=60, description="Age, s, beyond which whole segments go away; unlimited unless given.")
    ] = None
    retention_mib: Annotated[
        Whole | None, Field(ge=1, description="Size of a topic, MiB, beyond which its oldest segments go away.")
    ] = None
    segment_mib: Annotated[Whole, Field(ge=1, le=1024, description="Size of a segment, MiB.")] = 64


class KafkaSettings(_Section):
    """Apache Kafka, transport ``kafka``."""

    bootstrap_servers: Annotated[
        str, Field(min_length=1, description="Brokers to begin with: `host:port`, separated by commas.")
    ] = "localhost:9092"
    group: Annotated[str, Field(min_length=1, description="Consumer group; its members share the datacenters.")] = (
        "opendt"
    )
    partitions: Annotated[
        Whole,
        Field(
            ge=1, le=10_000, description="Partitions of topics that are made here: as many processes can share them."
        ),
    ] = 1
    password: Annotated[SecretStr | None, Field(description="Of SASL: `sasl.password`.")] = None
    key_password: Annotated[SecretStr | None, Field(description="Of the TLS key: `ssl.key.password`.")] = None
    settings: Annotated[
        dict[str, str | int | float | bool],
        Field(
            repr=False,  # whoever writes a password here instead of above does not find it in a log
            description="Passed through to librdkafka as they are, as `security.protocol` or `ssl.ca.location`.",
        ),
    ] = {}

    @field_validator("settings")
    @classmethod
    def _nothing_twice(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, key in _NAMED_ABOVE.items():
            if name in value:
                raise ValueError(f"keys other than {name!r} (set {key})")
        return value

    def client_settings(self) -> dict[str, str | int | float | bool]:
        """`settings` and the secrets under librdkafka's names: for the client, never for a screen."""
        given = dict(self.settings)
        for name, secret in (("sasl.password", self.password), ("ssl.key.password", self.key_password)):
            if secret is not None:
                given[name] = secret.get_secret_value()
        return given


class OpenAISettings(_Section):
    """The language model that may propose changes."""

    api_key: Annotated[SecretStr | None, Field(description="Key; without one no model is asked.")] = None
    base_url: Annotated[str | None, Field(description="Address of a compatible service, instead of the usual.")] = None
    model: Annotated[str, Field(min_length=1, description="Name of the model.")] = "gpt-4.1-mini"
    time_budget_s: Annotated[
        Seconds, Field(gt=0, le=600, description="All attempts, waits and questions of one decision, s.")
    ] = 20.0
    tokens_per_day: Annotated[
        Whole, Field(ge=0, description="Tokens in any 24 h, by the clock on the wall; beyond them the rules decide.")
    ] = 1_000_000
    cost_per_day_usd: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="Money in any 24 h, US dollars; needs the prices below."),
    ] = None
    prompt_usd_per_million: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="Price of a million tokens that are sent, US dollars.")
    ] = 0.0
    reply_usd_per_million: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="Price of a million tokens that come back, US dollars.")
    ] = 0.0

    @model_validator(mode="after")
    def _limit_has_prices(self) -> OpenAISettings:
        if self.cost_per_day_usd is not None and not (self.prompt_usd_per_million or self.reply_usd_per_million):
            raise ValueError("prices beside cost_per_day_usd, which limits nothing without them")
        return self


class GateSection(_Section):
    """Limits of the gate through which anything is acted on."""

    max_changes_per_day: Annotated[Whole, Field(ge=0, le=1000, description="Changes in any 24 h of event time.")] = 4
    waiting_s: Annotated[
        Whole, Field(ge=60, le=31 * 86_400, description="How long a proposal waits for a person, s of event time.")
    ] = 86_400
    maintenance: Annotated[
        tuple[str, ...],
        Field(description="When changes may be made, UTC, as `Mon-Fri 01:00-05:00`; always when there is none."),
    ] = ()
    certify: Annotated[
        Literal["needed", "always"],
        Field(description="Whether certificates are written where they can matter, or for advice too."),
    ] = "needed"
    certificates_mib: Annotated[
        Whole,
        Field(
            ge=0,
            le=1_000_000,
            description="Size, MiB, of what is kept of a datacenter to decide its certificates again; the oldest goes first.",
        ),
    ] = 256


class FleetSettings(_Section):
    """A fleet of Kubernetes clusters that is planned for; followed where `kubeconfig` or `spec` is set."""

    name: Annotated[Name, Field(description="Name of the fleet, in the ledger and in events.")] = "fleet"
    kubeconfig: Annotated[Path | None, Field(description="Kubeconfig file; its contexts are the clusters.")] = None
    clusters: Annotated[
        tuple[str, ...], Field(description="Contexts that are clusters of the fleet; all unless given.")
    ] = ()
    spec: Annotated[
        Path | None,
        Field(
            description="The fleet's YAML: kinds, failures and prices of the clusters. Without a kubeconfig its nodes are the fleet."
        ),
    ] = None
    latency: Annotated[
        Path | None, Field(description="Round trips between clusters: YAML. What the fleet's YAML names unless given.")
    ] = None
    namespace: Annotated[Name, Field(description="Namespace that pods are made in.")] = "opendt"
    lease_cluster: Annotated[
        str,
        Field(
            description="Cluster that has the Lease by which one of several processes leads and the others stand by; none unless given."
        ),
    ] = ""
    image: Annotated[str, Field(min_length=1, description="Image of the worker that stages run.")] = (
        "localhost/opendt-worker:1"
    )
    images: Annotated[
        dict[str, str],
        Field(
            description="Images by exec format (`qemu-arm64`, `wasm`), and by architecture (`arm64`) for what runs natively."
        ),
    ] = {}
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Field(description="`Never` where images were imported by hand.")
    ] = "IfNotPresent"
    binds_directly: Annotated[
        bool, Field(description="Whether pods name their node, for clusters without a scheduler.")
    ] = False
    strategy: Annotated[
        str, Field(min_length=1, description="Policy that places jobs, where a request names none.")
    ] = "greedy"
    scale: Annotated[
        float,
        BeforeValidator(_no_flag),
        Field(ge=1, allow_inf_nan=False, description="By how much requests and work are divided: 100 is 1:100."),
    ] = 100.0
    futures: Annotated[Whole, Field(ge=100, le=100_000, description="Sampled futures behind a risk.")] = 1000
    tail_ratio: Annotated[
        float,
        BeforeValidator(_no_flag),
        Field(gt=0, le=1, allow_inf_nan=False, description="Share of the worst futures that `cvar` takes the mean of."),
    ] = 0.1
    interval_s: Annotated[Seconds, Field(description="Time between readings of metrics, s.")] = 5.0
    latency_tolerance_ratio: Annotated[
        float,
        BeforeValidator(_no_flag),
        Field(gt=0, le=10, description="How far a latency may be from the predicted one."),
    ] = 0.1
    energy_tolerance_ratio: Annotated[
        float,
        BeforeValidator(_no_flag),
        Field(gt=0, le=10, description="How far an energy may be from the predicted one."),
    ] = 0.2
    report_dir: Annotated[
        Path, Field(description="Where verification is written. Beside the settings file unless given.")
    ] = Path("reports/verification")

    @property
    def is_followed(self) -> bool:
        """Whether there is a fleet."""
        return self.kubeconfig is not None or self.spec is not None


class ApiSettings(_Section):
    """The REST interface that `opendt run` serves."""

    serve: Annotated[bool, Field(description="Whether it is served; it always is where a fleet is followed.")] = False
    host: Annotated[str, Field(min_length=1, description="Address that it listens on.")] = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65_535, description="Its port; 0 takes a free one.")] = 8420
    token: Annotated[
        SecretStr | None, Field(description="What callers must send; needed where others than this machine can call.")
    ] = None


class ResultsSettings(_Section):
    """Series of the windows gone by, for `opendt timeseries`."""

    memory_windows: Annotated[
        Whole, Field(ge=1, le=100_000, description="Windows kept in memory; older ones go to Parquet files.")
    ] = 288
    retention_s: Annotated[
        Whole | None, Field(ge=3600, description="Age in event time, s, beyond which files go away.")
    ] = None
    retention_mib: Annotated[
        Whole | None,
        Field(ge=1, description="Size of all files of a datacenter, MiB, beyond which the oldest go away."),
    ] = 1024


class Settings(BaseSettings):
    """All settings. Made in code it reads nothing else; `opendt.orchestrator.settings.load_settings` reads the sources."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="OPENDT_",
        env_nested_delimiter="__",
        validate_default=False,
        hide_input_in_errors=True,
    )

    datacenter: Annotated[
        dict[str, DatacenterSettings], Field(description="Datacenters that are followed, by name.")
    ] = {}
    environment: Annotated[
        EnvironmentName,
        Field(description="`replay` (recorded data), `shadow` (live data, nothing acted on) or `live`."),
    ] = "shadow"
    mode: Annotated[
        Mode,
        Field(description="What may be done with proposals: `observe`, `advise`, `approve` (by a person) or `auto`."),
    ] = "approve"
    window_s: Annotated[
        Whole, Field(ge=1, le=_HOUR_S, description="Length of a window of event time, s; divides an hour.")
    ] = 300
    lateness_s: Annotated[
        Seconds, Field(description="How much later than newer ones a record may come and still count, s.")
    ] = 30.0
    power_patience_s: Annotated[
        Seconds,
        Field(description="Event time, s, for which windows wait for a power stream that has nothing more to give."),
    ] = 300.0
    transport: Annotated[Literal["log", "kafka"], Field(description="What carries the messages.")] = "log"
    log: LogSettings = LogSettings()
    kafka: KafkaSettings = KafkaSettings()
    state_dir: Annotated[
        Path,
        Field(description="Where ledger, snapshots, results and backups are. Beside the settings file unless given."),
    ] = Path("opendt-state")
    ledger_url: Annotated[
        SecretStr | None,
        Field(description="`sqlite:///FILE` or `postgresql+psycopg://...`. `STATE_DIR/ledger.sqlite` unless given."),
    ] = None
    snapshot_every_windows: Annotated[
        Whole, Field(ge=1, le=100_000, description="Windows between snapshots of a twin.")
    ] = 12
    results: ResultsSettings = ResultsSettings()
    futures: Annotated[
        Whole, Field(ge=0, le=1000, description="Sampled futures behind a blind forecast's band; 0 leaves them out.")
    ] = 8
    seed: Annotated[Whole, Field(ge=0, le=2**63 - 1, description="Of all randomness.")] = 0
    optimizers: Annotated[
        tuple[str, ...],
        Field(description="Who proposes changes: `rules`, `search`, `llm`, or names of installed plug-ins."),
    ] = ("rules",)
    rules: Annotated[
        dict[str, float],
        Field(
            description="Thresholds and amounts of the rules, as `downscale_ratio = 0.2`; all are in concepts/slo.md."
        ),
    ] = {}
    limits: Annotated[
        dict[str, Any],
        Field(
            description='What may be proposed at all, as `protected_groups = ["storage"]`; all is in guides/decide.md#limits.'
        ),
    ] = {}
    gate: GateSection = GateSection()
    openai: OpenAISettings = OpenAISettings()
    fleet: FleetSettings = FleetSettings()
    api: ApiSettings = ApiSettings()
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least level that is logged.")
    ] = "info"
    log_format: Annotated[Literal["text", "json"], Field(description="Form of the log on stderr.")] = "text"
    health_file: Annotated[
        Path | None, Field(description="Written after every window. `STATE_DIR/health.json` unless given.")
    ] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what the constructor is given and nothing from outside: `load_settings` has put the sources in order."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @field_validator("rules")
    @classmethod
    def _rules_make_sense(cls, value: dict[str, float]) -> dict[str, float]:
        if value:
            from opendt.optimization.rules import RuleSettings

            _refuse_unknown(value, RuleSettings.__dataclass_fields__)
            RuleSettings(**value)  # type: ignore[arg-type]
        return value

    @field_validator("limits")
    @classmethod
    def _limits_make_sense(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            from opendt.optimization.bounds import Limits

            _refuse_unknown(value, Limits.model_fields)
            try:
                Limits.model_validate_json(json.dumps(value))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                place = ".".join(str(part) for part in first["loc"])
                raise ValueError(f"{place}: {first['msg']}, found {first.get('input')!r}") from None
        return value

    @field_validator("window_s")
    @classmethod
    def _divides_an_hour(cls, value: int) -> int:
        if _HOUR_S % value:
            raise ValueError("a divisor of 3600, since forecasts are issued at full hours")
        return value

    @model_validator(mode="after")
    def _keys_are_names(self) -> Settings:
        for key, section in self.datacenter.items():
            if key != section.name:
                raise ValueError(f"datacenter.{key}.name to be {key!r}, not {section.name!r}")
        folded = [name.casefold() for name in self.datacenter]
        if len(set(folded)) < len(folded):
            raise ValueError("names of datacenters that differ in more than upper and lower case")
        return self

    @property
    def datacenters(self) -> tuple[DatacenterSettings, ...]:
        """Datacenters that are followed, in the order of the file."""
        return tuple(self.datacenter.values())

    @property
    def window_ms(self) -> int:
        """Length of a window, ms."""
        return self.window_s * 1000

    @property
    def lateness_ms(self) -> int:
        """Allowed lateness, ms."""
        return round(self.lateness_s * 1000)

    @property
    def power_patience_ms(self) -> int:
        """Patience with an absent power stream, ms."""
        return round(self.power_patience_s * 1000)

    @property
    def certificates_directory(self) -> Path:
        """Where what certificates rest on is kept, a folder for each datacenter."""
        return self.state_dir / "certificates"

    @property
    def log_directory(self) -> Path:
        """Where the embedded log is."""
        return self.log.directory or self.state_dir / "log"

    @property
    def health_path(self) -> Path:
        """Where the health file is."""
        return self.health_file or self.state_dir / "health.json"

    @property
    def ledger_address(self) -> str:
        """Address of the ledger, password included: for the ledger, never for a screen (`without_password`)."""
        if self.ledger_url is not None:
            return self.ledger_url.get_secret_value()
        return f"sqlite:///{self.state_dir / 'ledger.sqlite'}"


def without_password(url: str) -> str:
    """Show an address with its password hidden.

    Examples
    --------
    >>> without_password("postgresql+psycopg://twin:geheim@db:5432/opendt")
    'postgresql+psycopg://twin:***@db:5432/opendt'
    """
    return _PASSWORD_IN_URL.sub(lambda m: f"{m[2]}=***" if m[2] else f"{m[1]}:***", url)
