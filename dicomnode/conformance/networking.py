"""The port's tables in, section 4 of the statement out: implementation model, AE specification, configuration."""

from collections.abc import Iterator, Sequence

from pydicom.uid import UID

from dicomnode import uids
from dicomnode.conformance.document import Bullets, Paragraph, Section, Table
from dicomnode.dimse import contexts, status
from dicomnode.dimse.contexts import Service, Use
from dicomnode.pixels.eligibility import Reason
from dicomnode.query.keys import KEYS, Level, Model
from dicomnode.settings import DECLARED, Config

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
PORT_SECTIONS = ("dimse", "tls", "storage", "query", "retention")  # of the settings: what bears on a peer

# SOP specific conformance: what the tables do not say. Keys are the names of `contexts.SERVICES`.
BEHAVIOUR = {
    "Verification": ["Success as long as the node serves."],
    "Storage": [
        "Level 2 (full): every attribute is kept, private ones too, in the transfer syntax received.",
        "0x0000 means that the file is synced to disk under its final name and that its row is committed.",
        "An instance already stored is a success and changes nothing when its bytes are the same; other bytes follow "
        "the setting `storage.duplicates`, keep (default) or replace.",
        "An instance whose study is stored under another patient follows the setting `storage.patient_conflicts`.",
        "A Basic Text, Enhanced, Comprehensive, Comprehensive 3D or Extensible SR stored to the AE title of the "
        "setting `query.ae_title` is kept as any instance and is a question: its regions are searched once, and the "
        "answer is stored as a Comprehensive 3D SR and a Secondary Capture of the SR's study; or a Basic Text SR there "
        "says why there is none, with `query.notices`. To who may not make "
        "region queries it is 0x0124.",
        "Result objects are sent by C-STORE to the calling AE title, or to that of `query.results_to`, where the peers "
        "table has its host; tried again for a day while it cannot be reached, never once it has refused.",
        "No attribute is coerced. Storage does not depend on whether the instance is a picture for the models: one "
        "that is none is kept and marked with one of the reasons below.",
    ],
    "Query": [
        "Single value, list of UID, wild card, range, date and time combined (negotiated), universal and sequence "
        "matching, PS3.4 C.2.2.2. Person names are matched without regard to case, in each component group.",
        "Keys of levels above the query level are matched and returned in both models; relational queries when "
        "negotiated, else the hierarchical rules of PS3.4 C.4.1.2.1 with 0xA900 for what breaks them.",
        "Any attribute may be asked: one that is not in the table is matched against, and returned from, the stored "
        "header of an instance.",
        "Responses carry Retrieve AE Title and Instance Availability (ONLINE). With the setting "
        "`query.maximum_answers` the final status of a longer answer is 0xA700.",
        "A C-CANCEL is acted on before the next response.",
    ],
    "Retrieve by C-MOVE": [
        "To configured peers only: Move Destination is looked up in the peers table; the identifier is no way to name "
        "an address. Sub-operations carry the Move Originator and the request's priority.",
        "An instance is sent in its stored transfer syntax where the destination accepts it, else decompressed or "
        "re-encoded; one that cannot be is a failed sub-operation.",
    ],
    "Retrieve by C-GET": [
        "Sub-operations use the storage contexts of the association for which the requestor proposed the SCP role.",
        "Transfer syntaxes as for C-MOVE.",
    ],
    "Storage Commitment": [
        "Push model. N-ACTION is answered at once; an instance is committed when its row is stored and its file is "
        "there with the recorded size. N-EVENT-REPORT follows on the same association while it is open, else on a new "
        "one to the peer's configured address, tried again for a bounded time.",
    ],
}


def networking(config: Config) -> Section:
    """Section 4."""
    return Section(
        "Networking",
        [
            Section("Implementation model", list(_model())),
            Section("AE specification", list(_specification(config))),
            Section(
                "Network interfaces",
                [Paragraph("TCP/IP, IPv4 and IPv6, as the operating system has them. Nagle's algorithm is off.")],
            ),
            Section("Configuration", list(_configuration(config))),
        ],
    )


def _model() -> Iterator[Section]:
    yield Section(
        "Application data flow",
        [
            Paragraph(
                "One application entity. Remote AEs send instances to it (C-STORE), query it (C-FIND), also for the "
                "regions most similar to a region of interest, and retrieve from it (C-MOVE, C-GET). It opens "
                "associations of its own for the sub-operations of a C-MOVE, for storage commitment reports, and for "
                "the commands of an administrator."
            )
        ],
    )
    yield Section(
        "Functional definition",
        [
            Paragraph(
                "A received data set goes to a scratch file as it arrives, is checked, made durable and catalogued, "
                "and only then acknowledged. Worker processes then find the anatomical regions of chest radiographs "
                "and index them. Queries read the catalogue; a region query also encodes its region of interest."
            )
        ],
    )
    yield Section(
        "Sequencing of real-world activities",
        [
            Paragraph(
                "The image that a region query refers to has to be stored first, else 0xA900. An image is found by "
                "others once it is indexed, seconds after its C-STORE; before anything is indexed the answer is 0xA700."
            )
        ],
    )


def _specification(config: Config) -> Iterator[Section]:
    yield Section("Association policies", [_policies(config)])
    yield Section("Association initiation", [each for use in contexts.USES for each in _use(use)])
    yield Section("Association acceptance", list(_acceptance()))


def _policies(config: Config) -> Table:
    dimse = config.dimse
    rows = [
        ("Application context", APPLICATION_CONTEXT),
        ("Implementation Class UID", uids.IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", uids.IMPLEMENTATION_VERSION_NAME),
        ("Maximum PDU length received", f"{dimse.maximum_pdu} bytes"),
        ("Associations accepted at once", str(dimse.maximum_associations)),
        ("Connections at once from one address", str(dimse.maximum_per_address)),
        ("Asynchronous operations window", "not negotiated: one operation at a time"),
        ("Time to ask for an association", f"{dimse.acse_timeout_s:g} s"),
        ("Time for one PDU to arrive", f"{dimse.pdu_timeout_s:g} s"),
        ("Idle time-out of an association", f"{dimse.network_timeout_s:g} s, then A-ABORT"),
    ]
    return Table(("Policy", "Value"), rows)


def _use(use: Use) -> Iterator[Section]:
    yield Section(
        use.name,
        [
            Paragraph(use.activity),
            *_classes_of_use(use),
        ],
    )


def _classes_of_use(use: Use) -> list[Paragraph | Table]:
    """The tables of a use; what they share with an accepted service is listed there."""
    if (use.sop_classes, use.transfer_syntaxes) in [
        (row.sop_classes, row.transfer_syntaxes) for row in contexts.SERVICES
    ]:
        return [Paragraph(f"SOP classes and transfer syntaxes as accepted for {use.service}; role {use.role}.")]
    rows = [(UID(uid).name, uid, use.role) for uid in use.sop_classes]
    return [Table(("SOP class", "UID", "Role"), rows), _syntaxes(use.transfer_syntaxes)]


def _acceptance() -> Iterator[Section]:
    yield Section(
        "Policy",
        [
            Paragraph(
                "The calling AE title, its address, the called AE title and, over TLS, the name in its certificate are "
                "held against the peers table. Who may not call is rejected (permanent, service user): reason 3 for "
                "the calling AE, 7 for the called AE, 1 for a peer that must call over TLS. Contexts of services that "
                "a peer is not permitted are not accepted. Of the transfer syntaxes of a context the first in the "
                "order below is accepted."
            )
        ],
    )
    for service in contexts.SERVICES:
        yield Section(service.name, list(_service(service)))


def _service(service: Service) -> Iterator[Paragraph | Bullets | Table | Section]:
    if service.extended:
        yield Paragraph("Standard Extended SOP Classes (PS3.2 7.3): see the private attributes in the annex.")
    yield Table(("SOP class", "UID"), [(UID(uid).name, uid) for uid in service.sop_classes])
    yield _syntaxes(service.transfer_syntaxes)
    yield Bullets(BEHAVIOUR[service.name])
    if service.name == "Storage":
        yield Table(("Reason why an instance is not indexed",), [(reason.value,) for reason in Reason])
    if service.name == "Query":
        yield from _keys()
    yield Table(
        ("Status", "Meaning"),
        [(f"0x{row.code:04X}", row.text) for row in status.MEANINGS if service.name in row.services],
    )


def _keys() -> Iterator[Paragraph | Bullets | Table]:
    yield Bullets([f"{model}: {' > '.join(model.levels)}" for model in Model])
    yield Paragraph("Extended negotiation: relational queries, combined date-time matching; fuzzy names are not.")
    for level in Level:
        yield Table(
            (f"{level.value} level key", "Tag", "Type", "Matching"),
            [(key.keyword, str(key.tag), key.need.value, key.matching.value) for key in KEYS if key.level is level],
        )


def _syntaxes(syntaxes: Sequence[str]) -> Table:
    return Table(("Transfer syntax, in order of preference", "UID"), [(UID(uid).name, str(uid)) for uid in syntaxes])


def _configuration(config: Config) -> Iterator[Section]:
    yield Section(
        "AE titles and addresses",
        [
            Table(
                ("Application entity", "AE title", "Port"),
                [("dicomnode", config.dimse.ae_title, str(config.dimse.port))],
            ),
            Paragraph("Remote AEs are tables `[peers.NAME]` of the configuration."),
        ],
    )
    yield Section(
        "Parameters",
        [
            Table(
                ("Setting", "Default", "Meaning"),
                [
                    (name, "" if setting.secret else f"{setting.default}", setting.about)
                    for name, setting in DECLARED.items()
                    if setting.section in PORT_SECTIONS
                ],
            )
        ],
    )
