"""A command's settings in, an audit trail and the account that runs the command out: what it does is written down."""

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dicomnode.audit import trail
from dicomnode.audit.auditor import Auditor, Party
from dicomnode.audit.codes import Code
from dicomnode.settings import Config
from storage.records import StudyShare


@dataclass(frozen=True)
class Account:
    """Who runs the command, and what writes down what it does."""

    auditor: Auditor
    party: Party

    def deleted(self, study: StudyShare, *, whole: bool) -> None:
        """Instances of a study are gone."""
        self.auditor.deleted(self.party, study, whole=whole)

    def configured(self, kind: Code, what: str) -> None:
        """The archive works otherwise from now on."""
        self.auditor.configured(kind, what, self.party)


@contextmanager
def audited(config: Config) -> Iterator[Account]:
    """All is written when it ends."""
    with trail.opened(config, socket.gethostname()) as found:
        yield Account(Auditor(found if found.is_on else None, config.dimse.ae_title), Party(_name(), is_ae=False))


def _name() -> str:
    """Of the account; a container may have none for its number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
