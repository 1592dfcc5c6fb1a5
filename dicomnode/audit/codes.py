"""Codes of audit messages: PS3.16 CID 400 (events), 401 (their types), 402 (roles); value sets of PS3.15 A.5.1.2."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Code:
    """A coded value as the schema has it: csd-code, codeSystemName, originalText."""

    value: str
    system: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


# PS3.16 CID 400 Audit Event ID
APPLICATION_ACTIVITY: Final = _dcm("110100", "Application Activity")
INSTANCES_ACCESSED: Final = _dcm("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = _dcm("110104", "DICOM Instances Transferred")
STUDY_DELETED: Final = _dcm("110105", "DICOM Study Deleted")
QUERY: Final = _dcm("110112", "Query")
SECURITY_ALERT: Final = _dcm("110113", "Security Alert")
USER_AUTHENTICATION: Final = _dcm("110114", "User Authentication")

# PS3.16 CID 401 Audit Event Type Code
APPLICATION_START: Final = _dcm("110120", "Application Start")
APPLICATION_STOP: Final = _dcm("110121", "Application Stop")
LOGIN: Final = _dcm("110122", "Login")
LOGOUT: Final = _dcm("110123", "Logout")
NODE_AUTHENTICATION: Final = _dcm("110126", "Node Authentication")
SECURITY_CONFIGURATION: Final = _dcm("110129", "Security Configuration")
SOFTWARE_CONFIGURATION: Final = _dcm("110131", "Software Configuration")

# PS3.16 CID 402 Audit Active Participant Role ID Code
APPLICATION: Final = _dcm("110150", "Application")
DESTINATION: Final = _dcm("110152", "Destination Role ID")
SOURCE: Final = _dcm("110153", "Source Role ID")

# Participant Object ID Type Code, PS3.15 A.5.1.2.4 and PS3.16 CID 404
STUDY_INSTANCE_UID: Final = _dcm("110180", "Study Instance UID")
SOP_CLASS_UID: Final = _dcm("110181", "SOP Class UID")
NODE_ID: Final = _dcm("110182", "Node ID")
PATIENT_NUMBER: Final = Code("2", "RFC-3881", "Patient Number")

# EventActionCode and EventOutcomeIndicator, PS3.15 A.5.1.1
CREATE, READ, UPDATE, DELETE, EXECUTE = "C", "R", "U", "D", "E"
SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
