"""Authorities and certificates for tests, made by OpenSSL's program: names in, PEM files out."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-newkey", "rsa:2048")


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


def authority(folder: Path, name: str) -> Identity:
    """A self-signed authority."""
    return _made(folder, name, "-addext", "basicConstraints=critical,CA:TRUE", kind=EC)


def issued(folder: Path, by: Identity, name: str, san: str = "", kind: tuple[str, ...] = EC) -> Identity:
    """A certificate of that common name and, where given, SAN, e.g. `DNS:ct1.example,IP:127.0.0.1`."""
    extensions = ["basicConstraints=critical,CA:FALSE", *([f"subjectAltName={san}"] if san else [])]
    added = [part for extension in extensions for part in ("-addext", extension)]
    return _made(folder, name, "-CA", str(by.certificate), "-CAkey", str(by.key), *added, kind=kind)


def _made(folder: Path, name: str, *arguments: str, kind: tuple[str, ...]) -> Identity:
    identity = Identity(folder / f"{name}.pem", folder / f"{name}.key")
    files = ("-keyout", str(identity.key), "-out", str(identity.certificate))
    command = ("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}", *kind, *files, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return identity
