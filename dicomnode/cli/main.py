"""The program's commands in one list; an error tree becomes exit codes here and nowhere else."""

import argparse
import sys
from collections.abc import Sequence

from dicomnode import __version__
from dicomnode.cli import (
    admin,
    backup,
    client,
    delete,
    demo,
    evaluate,
    importing,
    learn,
    model,
    output,
    questions,
    serve,
    statements,
    verify,
    work,
)
from dicomnode.errors import ConfigError, DicomNodeError
from encoder.errors import EncoderError
from storage.errors import StorageError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """Every command with its flags."""
    top = argparse.ArgumentParser(
        prog="dicomnode",
        description='A DICOM node that answers "show me the regions in our archive that look like this one".',
        epilog="Not for diagnostic use.",
    )
    top.add_argument("--version", action="version", version=f"dicomnode {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (
        serve,
        work,
        demo,
        client,
        importing,
        admin,
        questions,
        delete,
        verify,
        backup,
        model,
        learn,
        evaluate,
        statements,
    ):
        module.add(commands)
    return top


def run(arguments: Sequence[str]) -> int:
    """Run one command. 0 done, 1 failed with one line on standard error, 2 usage."""
    parsed = parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except ConfigError as error:
        output.complain(str(error))
        return USAGE
    except (DicomNodeError, StorageError, EncoderError) as error:
        output.complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        output.complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
