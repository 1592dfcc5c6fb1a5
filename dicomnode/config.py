"""Settings: declared once here, read from TOML, environment and flags, and handed out frozen.

Each field of the section classes is one setting; its config key, environment variable, flag, documented row and the
commented line in `etc/dicomnode.toml` come from that declaration. Later sources win: default, file, environment
`DICOMNODE_<SECTION>__<KEY>`, flag.
"""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dicomnode.errors import ConfigError

Source = Literal["default", "file", "environment", "flag"]
ENVIRONMENT_PREFIX = "DICOMNODE_"


def _setting(
    default: Any, about: str, *, choices: tuple[str, ...] = (), secret: bool = False, most: int | None = None
) -> Any:
    """A field; `most`: the largest number, or the longest text. A secret is not shown by repr."""
    return field(
        default=default, repr=not secret, metadata={"about": about, "choices": choices, "secret": secret, "most": most}
    )


@dataclass(frozen=True)
class StorageSettings:
    """Where things are kept."""

    root: str = _setting("dicomnode-data", "folder under which the node keeps everything")
    url: str = _setting("", "SQLAlchemy URL of the database; empty: SQLite under the root", secret=True)
    duplicates: str = _setting(
        "keep", "same SOP Instance UID with other bytes: keep the first or replace it", choices=("keep", "replace")
    )
    minimum_free_mib: int = _setting(256, "MiB of free disk below which C-STORE is refused with 0xA700")


@dataclass(frozen=True)
class DimseSettings:
    """The DICOM port."""

    host: str = _setting("0.0.0.0", "address to listen on")  # noqa: S104 - modalities are other machines
    port: int = _setting(11112, "TCP port; 0 takes a free one", most=65535)
    ae_title: str = _setting("DICOMNODE", "AE title of the node", most=16)
    check_called_ae: bool = _setting(False, "reject associations that call another AE title")
    maximum_pdu: int = _setting(131072, "largest PDU accepted, bytes")
    maximum_associations: int = _setting(64, "associations at once")
    maximum_per_address: int = _setting(32, "associations at once from one address")
    acse_timeout_s: float = _setting(15.0, "seconds to wait for association messages")
    network_timeout_s: float = _setting(60.0, "seconds an association may be silent")
    pdu_timeout_s: float = _setting(30.0, "seconds one PDU may take to arrive once it has begun")


@dataclass(frozen=True)
class IngestSettings:
    """The workers that decode, detect and encode."""

    workers: int = _setting(2, "worker processes")
    threads: int = _setting(1, "CPU threads of each worker's models; more workers beat more threads")
    maximum_attempts: int = _setting(5, "tries of one instance before it is marked failed")
    lease_s: float = _setting(120.0, "seconds a worker may hold an instance without a sign of life")
    maximum_pixels: int = _setting(64_000_000, "rows x columns above which an image is not decoded")
    modalities: str = _setting("CR,DX,DR,RG", "comma-separated modalities that hold films whatever the body part")


@dataclass(frozen=True)
class QuerySettings:
    """Region queries."""

    default_matches: int = _setting(10, "hits returned when the query does not say how many")
    maximum_matches: int = _setting(1000, "hits returned at most, whatever the query says")
    exact_below: int = _setting(50_000, "vectors of one anatomy up to which the scan is exact")
    encode_timeout_s: float = _setting(60.0, "seconds to wait for the ROI to be encoded")
    threads: int = _setting(1, "CPU threads of the query model")
    local: bool = _setting(True, "rank an ROI much smaller than its region by the place that looks like it")


@dataclass(frozen=True)
class ModelSettings:
    """What finds regions and turns them into vectors."""

    folder: str = _setting("", "folder of the model set for a new archive; empty: the shipped one")
    device: str = _setting("cpu", "what models run on: cpu, or cuda, or cuda:1 and so on")
    runtime: str = _setting(
        "auto", "what runs them: auto is openvino on a cpu where it is installed", choices=("auto", "torch", "openvino")
    )


SERVICES = ("echo", "store", "find", "query", "move", "get", "commit")  # what a peer may be permitted


@dataclass(frozen=True)
class PeerSettings:
    """One configured AE, a table `[peers.NAME]`: who may call from where and ask for what, and where it is called."""

    name: str
    ae_title: str
    host: str = ""  # where it listens; empty: the node never calls it
    port: int = 104
    tls: bool = False  # the node calls it over TLS, and it must call the node over TLS
    addresses: tuple[str, ...] = ()  # addresses and networks (CIDR) that it may call from; empty: any
    services: tuple[str, ...] = SERVICES


@dataclass(frozen=True)
class LogSettings:
    """What is written to standard error."""

    level: str = _setting("info", "least level that is written", choices=("debug", "info", "warning", "error"))
    format: str = _setting("text", "text for people, json for machines", choices=("text", "json"))


@dataclass(frozen=True)
class Config:
    """Every section. `sources` tells where each effective value came from, by `section.key`."""

    storage: StorageSettings = StorageSettings()
    dimse: DimseSettings = DimseSettings()
    ingest: IngestSettings = IngestSettings()
    query: QuerySettings = QuerySettings()
    models: ModelSettings = ModelSettings()
    peers: tuple[PeerSettings, ...] = ()
    log: LogSettings = LogSettings()
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False)

    @property
    def root(self) -> Path:
        return Path(self.storage.root)


@dataclass(frozen=True)
class Setting:
    """One declared setting, as documentation and readers need it."""

    section: str
    key: str
    type: type
    default: Any
    about: str
    choices: tuple[str, ...]
    secret: bool
    most: int | None

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        return f"{ENVIRONMENT_PREFIX}{self.section.upper()}__{self.key.upper()}"


SECTIONS: dict[str, Any] = {
    "storage": StorageSettings,
    "dimse": DimseSettings,
    "ingest": IngestSettings,
    "query": QuerySettings,
    "models": ModelSettings,
    "log": LogSettings,
}


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the documentation."""
    for section, cls in SECTIONS.items():
        for item in dataclasses.fields(cls):
            yield Setting(section, item.name, type(item.default), item.default, **item.metadata)


DECLARED: dict[str, Setting] = {setting.name: setting for setting in settings()}


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The effective configuration. `flags` maps `section.key` to a value; None values are flags not given.

    Raises ConfigError, naming the nearest known key, for anything that is not declared or has the wrong type.
    """
    layers: list[tuple[Source, Mapping[str, Any]]] = [
        ("file", _from_file(file) if file else {}),
        ("environment", _from_environment(os.environ if environment is None else environment)),
        ("flag", {name: value for name, value in (flags or {}).items() if value is not None}),
    ]
    values: dict[str, Any] = {name: setting.default for name, setting in DECLARED.items()}
    sources: dict[str, Source] = dict.fromkeys(values, "default")
    for source, layer in layers:
        for name, value in layer.items():
            values[name] = _typed(_declared(name), value)
            sources[name] = source
    sections = {
        section: cls(**{item.name: values[f"{section}.{item.name}"] for item in dataclasses.fields(cls)})
        for section, cls in SECTIONS.items()
    }
    return Config(**sections, sources=sources)


def example() -> str:
    """`etc/dicomnode.toml`: every setting commented out at its default, under its explanation."""
    lines = ["# Every setting of dicomnode at its default. Remove the # of a line to change it."]
    for section, cls in SECTIONS.items():
        lines += ["", f"[{section}]  # {cls.__doc__}"]
        for setting in (item for item in DECLARED.values() if item.section == section):
            choices = f" ({' | '.join(setting.choices)})" if setting.choices else ""
            lines += [f"# {setting.about}{choices}", f"#{setting.key} = {_toml(setting.default)}"]
    return "\n".join(lines) + "\n"


def _from_file(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    values: dict[str, Any] = {}
    for section, table in tables.items():
        if section not in SECTIONS:
            raise ConfigError(f"{path}: unknown section [{section}]{_nearest(section, SECTIONS)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a section, not a value")
        for key, value in table.items():
            name = f"{section}.{key}"
            _declared(name)
            values[name] = value
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    variables = {setting.variable: name for name, setting in DECLARED.items()}
    values = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
            continue
        if variable not in variables:
            raise ConfigError(f"unknown environment variable {variable}{_nearest(variable, variables)}")
        values[variables[variable]] = text
    return values


def _declared(name: str) -> Setting:
    if name not in DECLARED:
        raise ConfigError(f"unknown setting {name}{_nearest(name, DECLARED)}")
    return DECLARED[name]


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""


_BOOLEANS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


def _typed(setting: Setting, value: Any) -> Any:
    """`value` as the type of the setting's default; text from the environment is parsed."""
    try:
        converted = _converted(setting.type, value)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{setting.name}: expected {setting.type.__name__}, got {value!r}") from error
    if setting.choices and converted not in setting.choices:
        raise ConfigError(f"{setting.name}: expected one of {', '.join(setting.choices)}, got {value!r}")
    if isinstance(converted, int | float) and converted < 0:
        raise ConfigError(f"{setting.name}: must not be negative, got {value!r}")
    size = len(converted) if isinstance(converted, str) else converted
    if setting.most is not None and size > setting.most:
        what = "characters" if isinstance(converted, str) else ""
        raise ConfigError(f"{setting.name}: at most {setting.most} {what}".rstrip() + f", got {value!r}")
    return converted


def _converted(wanted: type, value: Any) -> Any:
    if wanted is bool:
        return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
    if wanted is str and not isinstance(value, str | Path):
        raise ValueError(value)
    if wanted in (int, float) and isinstance(value, bool):
        raise ValueError(value)
    if wanted is int and isinstance(value, float):
        raise ValueError(value)
    return wanted(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
