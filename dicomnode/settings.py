"""Settings: each declared once here, a field of its section's class, and handed out frozen as `Config`.

A field's config key, environment variable, flag, documented row and the commented line in `etc/dicomnode.toml` come
from that declaration, and so does what is wrong with a value. `config` reads them.
"""

import dataclasses
import difflib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dicomnode import pace
from dicomnode.errors import ConfigError

Source = Literal["default", "file", "environment", "flag"]
ENVIRONMENT_PREFIX = "DICOMNODE_"
AE_TITLE_LENGTH = 16
HIGHEST_PORT = 65535
LEAST_TOKEN = 16  # characters


def _setting(
    default: Any,
    about: str,
    *,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    most: int | None = None,
    wrong: Callable[[Any], str] | None = None,
) -> Any:
    """A field; `most`: the largest number, or the longest text; `wrong`: says what is wrong with a value, else "".

    A secret is not shown by repr. `choices` of a setting with several values are those of each.
    """
    about_it = {"about": about, "choices": choices, "secret": secret, "most": most, "wrong": wrong}
    return field(default=default, repr=not secret, metadata=about_it)


def _wrong_number(number: int) -> str:
    return "" if number >= 1 else "must be 1 or more"


def _wrong_ae_title(title: str) -> str:
    """PS3.5 6.2, AE: 16 characters of the default repertoire without backslash and controls, not all spaces."""
    if not title.strip():
        return "must not be empty"
    if any(not " " <= char <= "~" or char == "\\" for char in title):
        return "must be printable ASCII without backslash"
    return "" if len(title) <= AE_TITLE_LENGTH else f"at most {AE_TITLE_LENGTH} characters"


def _wrong_ae_titles(titles: tuple[str, ...]) -> str:
    return next((f"{title!r} {why}" for title in titles if (why := _wrong_ae_title(title))), "")


def _wrong_port(port: int) -> str:
    return "" if port else "must not be 0"


def _wrong_name(name: str) -> str:
    """Part of a file's name, and of what work is leased under."""
    return "" if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*|", name) else "must be letters, digits and ._-"


def _wrong_networks(networks: tuple[str, ...]) -> str:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            return str(error)
    return ""


def _wrong_url(url: str) -> str:
    parts = urlsplit(url)
    is_url = parts.scheme in {"http", "https"} and parts.netloc and not (parts.query or parts.fragment)
    return "" if not url or is_url else "must be http:// or https:// with a host"


def _wrong_template(url: str) -> str:
    """A link of the page: of a scheme that runs nothing in it, its holes those that are filled."""
    try:
        url.format(study="", dicomweb="")
    except (KeyError, IndexError, ValueError):
        return "must have no other braces than {study} and {dicomweb}"
    is_link = "{study}" in url and urlsplit(url).scheme in {"http", "https", "weasis", "slicer"}
    return "" if is_link or not url else "must be a link with {study} to a viewer"


def _wrong_token(token: str) -> str:
    """RFC 6750 2.1: what a Bearer token may be made of; short ones are guessed."""
    if token and not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        return "must be letters, digits and -._~+/"
    return "" if not token or len(token) >= LEAST_TOKEN else f"at least {LEAST_TOKEN} characters"


@dataclass(frozen=True)
class StorageSettings:
    """Where things are kept."""

    root: str = _setting("dicomnode-data", "folder under which the node keeps everything")
    url: str = _setting("", "SQLAlchemy URL of the database; empty: SQLite under the root", secret=True)
    duplicates: str = _setting(
        "keep", "same SOP Instance UID with other bytes: keep the first or replace it", choices=("keep", "replace")
    )
    minimum_free_mib: int = _setting(256, "MiB of free disk below which C-STORE is refused with 0xA700")
    patient_conflicts: str = _setting(
        "keep", "study of another patient: keep it under its first patient, or refuse it", choices=("keep", "refuse")
    )
    shared: bool = _setting(
        False, "other nodes serve the same root and database; needs PostgreSQL, and the same setting on each"
    )
    node: str = _setting(
        "", "name of this node among those that share, for as long as it lives; empty: its host's", wrong=_wrong_name
    )
    stable_age_s: float = _setting(60.0, "seconds without an arrival after which a study is complete")


@dataclass(frozen=True)
class RetentionSettings:
    """What is deleted by itself, study by study; never one that is still arriving."""

    maximum_gib: float = _setting(0.0, "GiB of files, as received, above which studies are deleted; 0: no quota")
    maximum_age_days: float = _setting(0.0, "days since its last arrival after which a study is deleted; 0: never")
    order: str = _setting(
        "received",
        "which study a quota takes first: longest without an arrival, or oldest Study Date",
        choices=("received", "study_date"),
    )


@dataclass(frozen=True)
class DimseSettings:
    """The DICOM port."""

    host: str = _setting("0.0.0.0", "address to listen on")  # noqa: S104 - modalities are other machines
    port: int = _setting(11112, "TCP port; 0 takes a free one", most=HIGHEST_PORT)
    plain: bool = _setting(True, "listen on that port, without TLS; false: only on the port of [tls]")
    ae_title: str = _setting("DICOMNODE", "AE title of the node", most=AE_TITLE_LENGTH, wrong=_wrong_ae_title)
    check_called_ae: bool = _setting(False, "reject associations that call another AE title")
    called_ae_titles: tuple[str, ...] = _setting(
        (), "AE titles besides ae_title that may be called when that is checked", wrong=_wrong_ae_titles
    )
    unknown_peers: str = _setting(
        "auto",
        "callers that are not in the peers table; auto: accept them while the table is empty",
        choices=("auto", "accept", "refuse"),
    )
    maximum_pdu: int = _setting(131072, "largest PDU accepted, bytes")
    maximum_associations: int = _setting(64, "associations at once")
    maximum_per_address: int = _setting(32, "associations at once from one address")
    receivers: int = _setting(
        1,
        "processes that receive; more, up to the processors, where many associations store at once",
        most=64,
        wrong=_wrong_number,
    )
    acse_timeout_s: float = _setting(15.0, "seconds to wait for association messages")
    network_timeout_s: float = _setting(60.0, "seconds an association may be silent")
    pdu_timeout_s: float = _setting(30.0, "seconds one PDU may take to arrive once it has begun")


@dataclass(frozen=True)
class TlsSettings:
    """DICOM over TLS by BCP 195, on its own port: on when certificate and key are given."""

    host: str = _setting("", "address to listen on; empty: that of [dimse]")
    port: int = _setting(2762, "TCP port; 0 takes a free one", most=HIGHEST_PORT)
    certificate: str = _setting("", "PEM file with the node's certificate, then those between it and its authority")
    key: str = _setting("", "PEM file with its private key, not encrypted")
    authorities: str = _setting("", "PEM file with the authorities of peers' certificates; empty: callers need none")
    require_client_certificate: bool = _setting(True, "refuse callers without a certificate of these authorities")
    handshake_timeout_s: float = _setting(10.0, "seconds a handshake may take")


@dataclass(frozen=True)
class WebSettings:
    """The HTTP port: DICOMweb, similar regions, health and metrics."""

    enabled: bool = _setting(False, "listen on that port; the flag --http-port says so too")
    host: str = _setting("", "address to listen on; empty: that of [dimse]")
    port: int = _setting(8042, "TCP port; 0 takes a free one", most=HIGHEST_PORT)
    public_url: str = _setting(
        "", "URL under which clients see the port, for the URLs in answers; empty: as each asks", wrong=_wrong_url
    )
    cors_origins: tuple[str, ...] = _setting(
        (), "origins of pages that may ask from a browser, such as https://ohif.example; * is any"
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (), "addresses and networks of proxies whose X-Forwarded-For is believed", wrong=_wrong_networks
    )
    ask: bool = _setting(True, "an SR that comes by STOW-RS is a question, as one sent to query.ae_title is")
    maximum_body_mib: int = _setting(2048, "MiB of one request's body")
    maximum_results: int = _setting(1000, "matches of a search in one answer; the rest by offset")
    maximum_connections: int = _setting(256, "connections at once")
    maximum_per_address: int = _setting(64, "connections at once from one address; trusted proxies are not counted")
    timeout_s: float = _setting(
        30.0, "seconds in which a request must begin, and 16 KiB of a body come, or of an answer that waits be taken"
    )
    page: bool = _setting(True, "serve the page for people, at /")
    administrators: tuple[str, ...] = _setting(
        (), "AE titles of peers that may use /admin; without a peers table everybody may", wrong=_wrong_ae_titles
    )
    ohif_url: str = _setting(
        "",
        "link of the page that opens a study in OHIF, such as https://ohif.example/viewer?StudyInstanceUIDs={study}; "
        "empty: none",
        wrong=_wrong_template,
    )
    weasis_url: str = _setting(
        "",
        "the same for Weasis; {dicomweb} is this node's DICOMweb URL, percent-encoded as {study} is",
        wrong=_wrong_template,
    )
    slicer_url: str = _setting(
        "",
        "the same for 3D Slicer, such as slicer://viewer/?studyUID={study}&dicomweb_endpoint={dicomweb}",
        wrong=_wrong_template,
    )


@dataclass(frozen=True)
class IngestSettings:
    """The workers that decode, detect and encode."""

    workers: int = _setting(2, "worker processes")
    threads: int = _setting(1, "CPU threads of each worker's models; more workers beat more threads")
    maximum_attempts: int = _setting(5, "tries of one instance before it is marked failed")
    lease_s: float = _setting(120.0, "seconds a worker may hold an instance without a sign of life")
    maximum_pixels: int = _setting(64_000_000, "rows x columns above which an image is not decoded")
    maximum_memory_mib: int = _setting(
        2048, "MiB that one film may take in a worker or the query model, on top of its models on a CPU; 0: no limit"
    )
    modalities: str = _setting("CR,DX,DR,RG", "comma-separated modalities that hold films whatever the body part")


@dataclass(frozen=True)
class ReindexSettings:
    """Encoding the archive again, beside everything else."""

    throttle: str = _setting(
        "",
        "films a second of all workers together, such as 2, or the share of its time that each works, such as 25%; "
        "empty: as fast as queries and arrivals leave room",
        wrong=pace.wrong_throttle,
    )
    schedule: str = _setting(
        "", "hours of the day in which it works, such as 22:00-06:00; empty: always", wrong=pace.wrong_schedule
    )
    least_recall: float = _setting(
        0.95, "recall@10 of the new index against an exact scan below which the generations are not swapped", most=1
    )


@dataclass(frozen=True)
class QuerySettings:
    """Region queries."""

    default_matches: int = _setting(10, "hits returned when the query does not say how many")
    maximum_matches: int = _setting(1000, "hits returned at most, whatever the query says")
    maximum_answers: int = _setting(0, "plain C-FIND matches returned at most, then 0xA700; 0: all")
    exact_below: int = _setting(
        0, "vectors of one anatomy up to which the scan is exact; 0: 500 000 in memory, 10 000 in the database"
    )
    engine: str = _setting(
        "auto",
        "what finds the nearest vectors; auto: this node's memory, scanned and above exact_below by graphs; "
        "exact: the same without graphs; pgvector: the database, for all nodes on it",
        choices=("auto", "exact", "pgvector"),
    )
    encode_timeout_s: float = _setting(60.0, "seconds to wait for the ROI to be encoded")
    threads: int = _setting(1, "CPU threads of the query model")
    local: bool = _setting(True, "rank an ROI much smaller than its region by the place that looks like it")
    why_cells: int = _setting(
        7,
        "parts along a region's longer side that are covered in turn to explain a hit; 0: hits are not explained",
        most=32,
    )
    ae_title: str = _setting(
        "REGIONMIR",
        "AE title that may be called besides the node's; an SR stored to it is a question",
        most=AE_TITLE_LENGTH,
        wrong=_wrong_ae_title,
    )
    scope: str = _setting("OTHER", "whose regions answer an SR that is stored", choices=("OTHER", "ANY", "SAME"))
    wait_s: float = _setting(600.0, "seconds a stored SR waits for its images and for an index before it is failed")
    results_to: str = _setting(
        "", "AE title of the peer that result objects are sent to; empty: who asked, where the peers table has its host"
    )
    notices: bool = _setting(
        True,
        "a stored SR that gets no answer is told why by an object in its study; "
        "false where reports that ask nothing come by STOW-RS",
    )


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
    ae_title: str = _setting("", "its AE title; needed", most=AE_TITLE_LENGTH, wrong=_wrong_ae_title)
    host: str = _setting("", "where it listens; empty: the node never calls it")
    port: int = _setting(104, "TCP port on which it listens", most=HIGHEST_PORT, wrong=_wrong_port)
    tls: bool = _setting(False, "it is called over TLS, and must call over TLS")
    certificate_name: str = _setting("", "name (CN, or DNS, IP or URI of the SAN) that its certificate must hold")
    addresses: tuple[str, ...] = _setting(
        (), "addresses and networks (CIDR) that it may call from; empty: any", wrong=_wrong_networks
    )
    services: tuple[str, ...] = _setting(SERVICES, "what it may ask for; query: region queries", choices=SERVICES)
    token: str = _setting(
        "", "what it shows on the HTTP port as Authorization: Bearer; empty: none", secret=True, wrong=_wrong_token
    )


@dataclass(frozen=True)
class LogSettings:
    """What is written to standard error."""

    level: str = _setting("info", "least level that is written", choices=("debug", "info", "warning", "error"))
    format: str = _setting("text", "text for people, json for machines", choices=("text", "json"))


def _wrong_trails(places: tuple[str, ...]) -> str:
    """Each a file, or where syslog messages go."""
    return next((f"{place!r} {why}" for place in places if (why := _wrong_trail(place))), "")


def _wrong_trail(place: str) -> str:
    parts = urlsplit(place)
    if parts.scheme == "unix":
        return "" if parts.path.startswith("/") and not parts.netloc else "must be unix: and a path, as unix:/dev/log"
    if "://" not in place:
        return "" if place.strip() and not place.endswith("/") else "must be a file"
    try:
        is_address = parts.scheme in {"udp", "tls"} and parts.hostname and parts.port != 0 and not parts.path
    except ValueError:
        is_address = False
    return "" if is_address else "must be a file, udp://HOST:PORT, tls://HOST:PORT or unix:PATH"


@dataclass(frozen=True)
class AuditSettings:
    """Who did what with whose images, as audit messages of PS3.15 A.5. They name patients."""

    to: tuple[str, ...] = _setting(
        (),
        "where they go, to each of: a file (made readable to its owner alone; below the root unless it begins with /), "
        "udp://HOST:PORT or tls://HOST:PORT of a syslog server, unix:/dev/log; none: nothing is written down",
        wrong=_wrong_trails,
    )
    maximum_waiting: int = _setting(10_000, "messages that may wait for each of these; more are lost, and counted")


@dataclass(frozen=True)
class Config:
    """Every section. `sources` tells where each effective value came from, by `section.key`."""

    storage: StorageSettings = StorageSettings()
    retention: RetentionSettings = RetentionSettings()
    dimse: DimseSettings = DimseSettings()
    tls: TlsSettings = TlsSettings()
    web: WebSettings = WebSettings()
    ingest: IngestSettings = IngestSettings()
    reindex: ReindexSettings = ReindexSettings()
    query: QuerySettings = QuerySettings()
    models: ModelSettings = ModelSettings()
    peers: tuple[PeerSettings, ...] = ()
    log: LogSettings = LogSettings()
    audit: AuditSettings = AuditSettings()
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False)

    @property
    def root(self) -> Path:
        return Path(self.storage.root)

    @property
    def node(self) -> str:
        return self.storage.node or socket.gethostname()

    def peer(self, name: str) -> PeerSettings:
        """The peer of that table. ConfigError, naming the nearest known one, when there is none."""
        known = {peer.name: peer for peer in self.peers}
        if name not in known:
            raise ConfigError(f"no peer {name} is configured{nearest(name, known)}")
        return known[name]


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
    wrong: Callable[[Any], str] | None

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        return f"{ENVIRONMENT_PREFIX}{self.section.upper()}__{self.key.upper()}"


SECTIONS: dict[str, Any] = {
    "storage": StorageSettings,
    "retention": RetentionSettings,
    "dimse": DimseSettings,
    "tls": TlsSettings,
    "web": WebSettings,
    "ingest": IngestSettings,
    "reindex": ReindexSettings,
    "query": QuerySettings,
    "models": ModelSettings,
    "log": LogSettings,
    "audit": AuditSettings,
}


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the documentation."""
    for section, cls in SECTIONS.items():
        for item in dataclasses.fields(cls):
            yield _declaration(section, item)


def _declaration(section: str, item: "dataclasses.Field[Any]") -> Setting:
    return Setting(section, item.name, type(item.default), item.default, **item.metadata)


def peer_settings(name: str) -> dict[str, Setting]:
    """The settings of a table `[peers.NAME]`, by key."""
    items = (item for item in dataclasses.fields(PeerSettings) if item.name != "name")
    return {item.name: _declaration(f"{PEERS}.{name}", item) for item in items}


PEERS = "peers"
DECLARED: dict[str, Setting] = {setting.name: setting for setting in settings()}


def values(config: Config) -> dict[str, Any]:
    """Every effective value by its name, those of peers and secrets too."""
    found = {name: getattr(getattr(config, setting.section), setting.key) for name, setting in DECLARED.items()}
    for peer in config.peers:
        found |= {setting.name: getattr(peer, name) for name, setting in peer_settings(peer.name).items()}
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""
