"""Settings read: from TOML, environment and flags, checked and typed as `settings` declares them; and an example.

Later sources win: default, file, environment `DICOMNODE_<SECTION>__<KEY>`, flag. Peers are tables `[peers.NAME]` of the
file only.
"""

import dataclasses
import ipaddress
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dicomnode.errors import ConfigError
from dicomnode.settings import (
    DECLARED,
    ENVIRONMENT_PREFIX,
    PEERS,
    SECTIONS,
    Config,
    PeerSettings,
    Setting,
    Source,
    nearest,
    peer_settings,
)


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The effective configuration. `flags` maps `section.key` to a value; None values are flags not given.

    Raises ConfigError, naming the nearest known key, for anything that is not declared or has the wrong type, and for
    settings that contradict each other.
    """
    tables = _tables(file) if file else {}
    peers = _peers(file, tables.pop(PEERS, {}))
    layers: list[tuple[Source, Mapping[str, Any]]] = [
        ("file", _from_file(file, tables)),
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
    loaded = Config(**sections, peers=peers, sources=sources)
    for contradicts, why in CONTRADICTIONS:
        if contradicts(loaded):
            raise ConfigError(why)
    return loaded


CONTRADICTIONS: tuple[tuple[Callable[[Config], bool], str], ...] = (
    (
        lambda config: bool(config.tls.certificate) != bool(config.tls.key),
        "tls.certificate and tls.key need each other",
    ),
    (
        lambda config: not config.dimse.plain and not config.tls.certificate,
        "dimse.plain = false needs tls.certificate and tls.key: nothing would be listened on",
    ),
    (
        lambda config: (
            bool(config.tls.certificate and not config.tls.authorities)
            and any(peer.certificate_name for peer in config.peers)
        ),
        "certificate_name of a peer needs tls.authorities: callers are not asked for certificates",
    ),
    (
        lambda config: (
            bool(config.query.results_to)
            and not any(peer.ae_title == config.query.results_to and peer.host for peer in config.peers)
        ),
        "query.results_to must be the AE title of a peer with a host",
    ),
    (
        lambda config: config.storage.shared and not config.storage.url.startswith("postgresql"),
        "storage.shared = true needs storage.url of a PostgreSQL database",
    ),
    (
        lambda config: config.query.engine == "pgvector" and not config.storage.url.startswith("postgresql"),
        "query.engine = pgvector needs storage.url of a PostgreSQL database",
    ),
)


def example() -> str:
    """`etc/dicomnode.toml`: every setting commented out at its default, under its explanation."""
    lines = ["# Every setting of dicomnode at its default. Remove the # of a line to change it."]
    for section, cls in SECTIONS.items():
        lines += ["", f"[{section}]  # {cls.__doc__}"]
        lines += _example_lines(item for item in DECLARED.values() if item.section == section)
    lines += ["", "# A peer: one such table for each, under a name of your own.", "#[peers.CT1]"]
    named = peer_settings("CT1")
    named["ae_title"] = dataclasses.replace(named["ae_title"], default="CT1")
    return "\n".join([*lines, *_example_lines(named.values())]) + "\n"


def _example_lines(declared: Iterable[Setting]) -> Iterator[str]:
    for setting in declared:
        choices = f" ({' | '.join(setting.choices)})" if setting.choices else ""
        yield f"# {setting.about}{choices}"
        yield f"#{setting.key} = {_toml(setting.default)}"


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _from_file(path: Path | None, tables: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section, table in tables.items():
        if section not in SECTIONS:
            raise ConfigError(f"{path}: unknown section [{section}]{nearest(section, [*SECTIONS, PEERS])}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a section, not a value")
        for key, value in table.items():
            name = f"{section}.{key}"
            _declared(name)
            values[name] = value
    return values


def _peers(path: Path | None, tables: Any) -> tuple[PeerSettings, ...]:
    """The tables `[peers.NAME]`, in the order of the file."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{path}: peers are tables, [peers.NAME] for each")
    peers = tuple(_peer(name, table) for name, table in tables.items())
    for number, peer in enumerate(peers):
        for other in peers[:number]:
            _check_told_apart(other, peer)
    return peers


def _peer(name: str, table: Mapping[str, Any]) -> PeerSettings:
    declared = peer_settings(name)
    for key in table:
        if key not in declared:
            raise ConfigError(f"unknown setting {PEERS}.{name}.{key}{nearest(key, declared)}")
    peer = PeerSettings(name, **{key: _typed(declared[key], value) for key, value in table.items()})
    if not peer.ae_title:
        raise ConfigError(f"{PEERS}.{name}: ae_title is missing")
    if peer.certificate_name and not peer.tls:
        raise ConfigError(f"{PEERS}.{name}: certificate_name needs tls = true")
    return dataclasses.replace(peer, ae_title=peer.ae_title.strip())


def _check_told_apart(one: PeerSettings, other: PeerSettings) -> None:
    """The same AE title at two peers is told apart by the address that calls; a token is one peer's."""
    if one.token and one.token == other.token:
        raise ConfigError(f"{PEERS}.{other.name}: token is that of {PEERS}.{one.name} already")
    if one.ae_title != other.ae_title:
        return
    both = set(map(ipaddress.ip_network, one.addresses)) & set(map(ipaddress.ip_network, other.addresses))
    if both or not (one.addresses or other.addresses):
        where = ", ".join(map(str, sorted(both, key=str))) or "any address"
        raise ConfigError(f"{PEERS}.{other.name}: AE title {other.ae_title} from {where} is {PEERS}.{one.name} already")


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    variables = {setting.variable: name for name, setting in DECLARED.items()}
    values = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
            continue
        if variable not in variables:
            raise ConfigError(f"unknown environment variable {variable}{nearest(variable, variables)}")
        values[variables[variable]] = text
    return values


def _declared(name: str) -> Setting:
    if name not in DECLARED:
        raise ConfigError(f"unknown setting {name}{nearest(name, DECLARED)}")
    return DECLARED[name]


_BOOLEANS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


def _typed(setting: Setting, value: Any) -> Any:
    """`value` as the type of the setting's default; text from the environment is parsed."""
    got = "" if setting.secret else f", got {value!r}"
    try:
        converted = _converted(setting.type, value)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{setting.name}: expected {setting.type.__name__}{got}") from error
    for each in converted if isinstance(converted, tuple) else (converted,):
        if setting.choices and each not in setting.choices:
            raise ConfigError(f"{setting.name}: expected one of {', '.join(setting.choices)}, got {each!r}")
    if isinstance(converted, int | float) and converted < 0:
        raise ConfigError(f"{setting.name}: must not be negative, got {value!r}")
    size = len(converted) if isinstance(converted, str) else converted
    if setting.most is not None and size > setting.most:
        what = "characters" if isinstance(converted, str) else ""
        raise ConfigError(f"{setting.name}: at most {setting.most} {what}".rstrip() + f", got {value!r}")
    if setting.wrong and (why := setting.wrong(converted)):
        raise ConfigError(f"{setting.name}: {why}{got}")
    return converted


def _converted(wanted: type, value: Any) -> Any:
    if wanted is bool:
        return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
    if wanted is tuple:
        return _several(value)
    if wanted is str and not isinstance(value, str | Path):
        raise ValueError(value)
    if wanted in (int, float) and isinstance(value, bool):
        raise ValueError(value)
    if wanted is int and isinstance(value, float):
        raise ValueError(value)
    return wanted(value)


def _several(value: Any) -> tuple[str, ...]:
    """A list of texts; in the environment separated by commas."""
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError(value)
    return tuple(parts)


def shown(value: Any) -> str:
    """A value for people."""
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
