"""What the statement says beside the network: overview, terms, character sets, security, annexes. PS3.2 Annex A."""

from typing import Final

from dicomnode import __version__
from dicomnode.attributes import charsets
from dicomnode.audit import codes as audited
from dicomnode.conformance.document import Bullets, Paragraph, Section, Table
from dicomnode.dimse import contexts, tls
from dicomnode.private import CREATOR, GROUP, TABLE
from dicomnode.query import search
from dicomnode.settings import Config
from encoder.anatomy import VOCABULARY


def overview() -> Section:
    """Section 1."""
    provided = {service.name for service in contexts.SERVICES}
    used = {use.service for use in contexts.USES if use.role == "SCU"}
    names = list(
        dict.fromkeys([*(service.name for service in contexts.SERVICES), *(use.service for use in contexts.USES)])
    )
    rows = [(name, "Yes" if name in used else "No", "Yes" if name in provided else "No") for name in names]
    return Section(
        "Conformance statement overview",
        [
            Paragraph(
                "The node stores instances of every storage SOP class, answers queries of the Patient Root and Study "
                "Root information models, gives instances back, and, as a Standard Extended SOP Class, answers which "
                "stored anatomical regions are most similar to a region of interest."
            ),
            Paragraph(f"Version {__version__}. Not for diagnostic use."),
            Table(("Network service", "User of service (SCU)", "Provider of service (SCP)"), rows),
        ],
    )


def introduction() -> Section:
    """Section 2."""
    return Section(
        "Introduction",
        [
            Paragraph(
                "For who connects other systems to the node. It follows PS3.2 and is printed by "
                "`dicomnode conformance` from the tables that the node itself is built from. Conformance does not "
                "promise that two systems work together: try them."
            )
        ],
    )


def terms() -> Section:
    """Section 3."""
    return Section(
        "Terms and abbreviations",
        [
            Bullets(
                [
                    "AE: application entity",
                    "ROI: region of interest, what a user marks",
                    "Region: an anatomical region that the node found in a stored image",
                    "Generation: all regions and vectors made by one set of models",
                    "SCP, SCU: service class provider, service class user",
                    "SR: Structured Report",
                ]
            )
        ],
    )


def media() -> Section:
    """Section 5."""
    return Section("Media interchange", [Paragraph("None.")])


def character_sets() -> Section:
    """Section 6."""
    return Section(
        "Support of character sets",
        [
            Paragraph(
                "Values are decoded by Specific Character Set (0008,0005), kept with the instance as received, matched "
                "as Unicode, and returned in the asker's character set, else in the stored one, else in ISO_IR 192."
            ),
            Table(("Defined term",), [(term,) for term in terms_of_character_sets()]),
        ],
    )


def terms_of_character_sets() -> list[str]:
    """Every defined term that is understood."""
    return list(charsets.TERMS)


_AUDITED: Final = tuple(
    (code.meaning, code.value, when)
    for code, when in (
        (audited.APPLICATION_ACTIVITY, "the node starts and stops"),
        (audited.QUERY, "C-FIND, QIDO-RS, region queries by any way"),
        (audited.INSTANCES_TRANSFERRED, "C-STORE, STOW-RS, C-GET, C-MOVE, WADO-RS, result objects that are sent"),
        (audited.INSTANCES_ACCESSED, "some instances of a study are deleted"),
        (audited.STUDY_DELETED, "a study is deleted, by an administrator or by retention"),
        (audited.USER_AUTHENTICATION, "logins over HTTP and their end"),
        (audited.SECURITY_ALERT, "a peer is refused; settings, certificates or the live model have changed"),
    )
)


def security(config: Config) -> Section:
    """Section 7."""
    port = f"on port {config.tls.port}" if config.tls.certificate else "where a certificate is configured"
    return Section(
        "Security",
        [
            Section(
                "Security profiles",
                [
                    Paragraph(
                        f"Basic TLS Secure Transport Connection, BCP 195 RFC 8996, 9325 profile (PS3.15 B.12), {port}: "
                        f"TLS 1.2 and 1.3, of 1.2 the suites {tls.SUITES}; mutual authentication where authorities are "
                        "configured. Certificates are read again when their files change."
                    ),
                    Paragraph(
                        "Audit Trail Message Format profile (PS3.15 A.5), where audit.to is configured: to files, and "
                        "by the syslog-TLS (A.6) and syslog-UDP (A.7) transmission profiles. The node reports these "
                        "events, without extensions, and processes no messages of others:"
                    ),
                    Table(("Event", "Code (DCM)", "When"), list(_AUDITED)),
                ],
            ),
            Section(
                "Association level security",
                [
                    Paragraph(
                        "The peers table: AE titles, addresses, names in certificates, permitted services. Refusals "
                        "are logged with their reason. User identity negotiation is not supported. The port caps PDUs, "
                        "messages, connections and their duration."
                    )
                ],
            ),
            Section("Application level security", [Paragraph("None.")]),
        ],
    )


def annexes() -> Section:
    """Section 8."""
    return Section(
        "Annexes",
        [
            Section("IOD contents", [Paragraph("The node creates no instances of its own in this version.")]),
            _private(),
            _codes(),
            Section("Greyscale image consistency", [Paragraph("Not supported: the node has no display.")]),
            _extended(),
            Section("Private transfer syntaxes", [Paragraph("None.")]),
        ],
    )


def private_tag(element: int) -> str:
    """A tag whose block is the peer's to choose."""
    return f"({GROUP:04X},xx{element:02X})"


def _private() -> Section:
    rows = [
        (private_tag(element), row.vr, row.name, _said(row.in_request), _said(row.in_response), row.meaning)
        for element, row in TABLE.items()
    ]
    return Section(
        "Data dictionary of private attributes",
        [
            Paragraph(f"Private creator `{CREATOR}`, group {GROUP:04X}. All are Type 3."),
            Table(("Tag", "VR", "Name", "Request", "Response", "Meaning"), rows),
        ],
    )


def _said(there: bool) -> str:
    return "yes" if there else "-"


def _codes() -> Section:
    laterality = {"R": "Right", "L": "Left"}
    rows = [
        (entry.name, entry.code, entry.scheme, entry.meaning, laterality.get(entry.laterality or "", "-"))
        for entry in VOCABULARY.entries
    ]
    return Section(
        "Coded terminology and templates",
        [
            Paragraph(
                "Finding Site of a Matched ROI, and what an Anatomic Region may name. SCT is SNOMED CT; 99RMIR are the "
                "node's own codes, where no public one is known. Laterality is 272741003 SCT."
            ),
            Table(("Region", "Code", "Scheme", "Meaning", "Laterality"), rows),
        ],
    )


def _extended() -> Section:
    return Section(
        "Standard Extended SOP classes",
        [
            Paragraph(
                "Patient Root and Study Root FIND: an IMAGE level identifier with a Query ROI or a Query SR SOP "
                "Instance UID is a region query. The standard keys narrow the candidates, then the most similar "
                "regions are returned, best first. All other identifiers are plain queries, and who does not send the "
                "private creator is returned no private attribute. Where a Query ROI holds several ROIs, each is "
                "searched and the answers are ranked together."
            ),
            Paragraph(
                "Similarity Score is the cosine of two regions. For an ROI below a sixth of its region's area it is, "
                "unless switched off, the cosine of the ROI and the place in the matched region that looks most like "
                "it; Matched ROI is then that place, its Finding Site the region, and Query Warning says "
                f"{search.RANKED_LOCALLY}. Minimum Score applies to the score that is returned."
            ),
            Paragraph(f"Query Warning holds one or more of {', '.join(search.WARNINGS)}, separated by a semicolon."),
        ],
    )
