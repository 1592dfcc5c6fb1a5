"""The presentation contexts the node accepts, as a table: what is negotiated, and what the statement says of it."""

from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
    register_uid,
    uid_to_service_class,
)

# The acceptor's order decides. Explicit VR first: private elements then arrive with their VR.
UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
# Syntaxes that are not a data set on an association: messages of other standards (PS3.6 Table A-1).
NOT_NEGOTIATED = {"1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2", "1.2.840.10008.1.20"}
# A peer that offers both can convert to uncompressed, the default every AE must take (PS3.5 10.1).
STORED = UNCOMPRESSED + tuple(
    UID(uid)
    for uid, entry in UID_dictionary.items()
    if entry[1] == "Transfer Syntax" and uid not in UNCOMPRESSED and uid not in NOT_NEGOTIATED
)
QUERY = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True)
class Service:
    """One group of SOP classes that the node provides as SCP with the same transfer syntaxes."""

    name: str
    sop_classes: tuple[str, ...]
    transfer_syntaxes: tuple[str, ...]
    permission: str  # what a peer must be permitted (settings.SERVICES) for these contexts to be accepted
    extended: bool = False  # Standard Extended SOP Class: the private block of a region query
    both_roles: bool = False  # the requestor may be SCP too, PS3.7 D.3.3.4: what it retrieves by C-GET comes so
    options: int = 0  # bytes of Service-class-application-information that are granted, PS3.4 C.5


def _storage_classes() -> tuple[str, ...]:
    """Every storage SOP class that pynetdicom or pydicom's dictionary knows, retired and trial ones too."""
    current = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    others = [
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not name.startswith(("Storage Commitment", "Media Storage"))
    ]
    return tuple(dict.fromkeys(current + others))


STORAGE_CLASSES = _storage_classes()

SERVICES: tuple[Service, ...] = (
    Service("Verification", (str(Verification),), QUERY, permission="echo"),
    Service("Storage", STORAGE_CLASSES, STORED, permission="store", both_roles=True),
    Service(
        "Query",
        (
            str(PatientRootQueryRetrieveInformationModelFind),
            str(StudyRootQueryRetrieveInformationModelFind),
        ),
        QUERY,
        permission="find",
        extended=True,
        options=2,  # relational queries, combined date-time matching
    ),
    Service(
        "Retrieve by C-MOVE",
        (
            str(PatientRootQueryRetrieveInformationModelMove),
            str(StudyRootQueryRetrieveInformationModelMove),
        ),
        QUERY,
        permission="move",
        options=1,  # relational retrieval
    ),
    Service(
        "Retrieve by C-GET",
        (
            str(PatientRootQueryRetrieveInformationModelGet),
            str(StudyRootQueryRetrieveInformationModelGet),
        ),
        QUERY,
        permission="get",
        options=1,
    ),
    Service("Storage Commitment", (str(StorageCommitmentPushModel),), QUERY, permission="commit"),
)
PATIENT_ROOTS = frozenset(
    str(uid)
    for uid in (
        PatientRootQueryRetrieveInformationModelFind,
        PatientRootQueryRetrieveInformationModelMove,
        PatientRootQueryRetrieveInformationModelGet,
    )
)
OPTIONS = {uid: service.options for service in SERVICES for uid in service.sop_classes if service.options}


@dataclass(frozen=True)
class Use:
    """One group of SOP classes that the node proposes when it opens an association, and what for."""

    service: str  # a name of `SERVICES`
    activity: str
    sop_classes: tuple[str, ...]
    transfer_syntaxes: tuple[str, ...]
    role: str = "SCU"

    @property
    def name(self) -> str:
        return self.service


USES: tuple[Use, ...] = (
    Use("Verification", "The command `echo`.", (str(Verification),), QUERY),
    Use(
        "Storage",
        "The command `send`, and the sub-operations of a C-MOVE: contexts of the classes and transfer syntaxes of what "
        "is to be sent, and for a C-MOVE uncompressed ones beside them.",
        STORAGE_CLASSES,
        STORED,
    ),
    Use("Query", "The command `query`.", (str(StudyRootQueryRetrieveInformationModelFind),), QUERY),
    Use(
        "Retrieve by C-GET",
        "The command `fetch`; storage contexts with the SCP role beside it.",
        (
            str(PatientRootQueryRetrieveInformationModelGet),
            str(StudyRootQueryRetrieveInformationModelGet),
        ),
        QUERY,
    ),
    Use(
        "Retrieve by C-MOVE",
        "The command `fetch --move-to`.",
        (
            str(PatientRootQueryRetrieveInformationModelMove),
            str(StudyRootQueryRetrieveInformationModelMove),
        ),
        QUERY,
    ),
    Use(
        "Storage Commitment",
        "N-EVENT-REPORT to a peer whose association has ended: the node proposes itself as SCP.",
        (str(StorageCommitmentPushModel),),
        QUERY,
        role="SCP",
    ),
)


def accepted() -> list[PresentationContext]:
    """Every context of the table as pynetdicom takes them; the storage classes new to it are made known to it."""
    contexts = []
    for sop_class in STORAGE_CLASSES:
        if uid_to_service_class(sop_class) is not StorageServiceClass:
            register_uid(sop_class, f"Storage_{sop_class.replace('.', '_')}", StorageServiceClass)
    for service in SERVICES:
        for sop_class in service.sop_classes:
            context = PresentationContext()
            context.abstract_syntax = sop_class
            context.transfer_syntax = list(service.transfer_syntaxes)
            if service.both_roles:
                context.scu_role = context.scp_role = True
            contexts.append(context)
    return contexts
