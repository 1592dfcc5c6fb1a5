"""What can go wrong between a peer and the stores; one table in `dimse.status` maps these to DICOM statuses.

DicomNodeError
├── ConfigError            a setting that is unknown, malformed or contradicts another
├── InvalidInstance        a data set that cannot be an instance: an identifying UID is missing or malformed
│   └── SopClassDiffers      its SOP class is not the one that the command named
├── PatientConflict        an instance of a study that is another patient's, where the policy refuses it
├── IdentifierError        a query identifier that is malformed or asks for what is not supported
│   ├── RoiError           an SR or ROI without a usable region
│   └── ImageNotStored     the ROI's image is not in the archive
├── NotPermitted           a service that the peers table does not permit the peer
├── NotReady               the node cannot answer yet: no index, or no model loaded
├── NotIndexable           a stored instance that is no picture for the models, with its reason
├── DecodeError            pixel data that cannot be decoded
├── UnknownDestination     a C-MOVE to an AE title that no configured peer with an address has
├── ActionError            an N-ACTION with an argument that is missing, malformed or of no meaning
│   ├── UnknownAction      of an action type that its SOP class does not have
│   ├── UnknownObject      on another SOP instance than the well-known one
│   └── ActionTooLarge     about more than is answered at once
├── Unsendable             a stored instance that cannot be sent on an association
├── BackupError            a folder that is no whole backup, or one that cannot be made or restored there
├── ModelFailure           the model process failed or did not answer in time
└── PeerError              another AE refused, failed or went away (client side)
    └── PeerRefused          it does not want what it was called for: calling again changes nothing
"""


class DicomNodeError(Exception):
    """Root of every error this package raises on purpose. Its text is fit for a peer and holds no patient data."""


class ConfigError(DicomNodeError):
    """A setting that is unknown, malformed, or contradicts another."""


class InvalidInstance(DicomNodeError):
    """A data set without the UIDs that would make it an instance."""


class SopClassDiffers(InvalidInstance):
    """A data set of another SOP class than the command said."""


class PatientConflict(DicomNodeError):
    """An instance that names another patient than its study, series or first version did."""


class IdentifierError(DicomNodeError):
    """A query identifier that is malformed or asks for what is not supported. Text: at most 64 characters."""


class RoiError(IdentifierError):
    """An SR or Query ROI item without a usable region."""


class ImageNotStored(IdentifierError):
    """The image that the ROI lies on is not in the archive."""


class NotPermitted(DicomNodeError):
    """A service that the peers table does not permit the peer. Text: at most 64 characters."""


class NotReady(DicomNodeError):
    """No answer is possible yet: nothing is indexed or no model is loaded."""


class NotIndexable(DicomNodeError):
    """A stored instance that is no picture for the models.

    `reason` is one of a closed list (`pixels.eligibility.Reason`); `detail` says more and holds no patient data.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class DecodeError(DicomNodeError):
    """Pixel data that cannot be decoded."""


class UnknownDestination(DicomNodeError):
    """A Move Destination that is no configured peer which the node may call."""


class ActionError(DicomNodeError):
    """An N-ACTION with an argument that is missing, malformed or of no meaning."""


class UnknownAction(ActionError):
    """An action type that the SOP class does not have."""


class UnknownObject(ActionError):
    """A SOP instance that is not the well-known one of the class."""


class ActionTooLarge(ActionError):
    """An action about more than is answered at once."""


class Unsendable(DicomNodeError):
    """A stored instance whose file is gone or damaged, or that the other side cannot take in any encoding of it."""


class BackupError(DicomNodeError):
    """A folder that holds no whole backup, or a place where none can be made or restored."""


class ModelFailure(DicomNodeError):
    """The model process failed, died or did not answer in time."""


class PeerError(DicomNodeError):
    """Another application entity refused, failed, or went away."""


class PeerRefused(PeerError):
    """Another application entity rejected the association for good, or took no presentation context."""
