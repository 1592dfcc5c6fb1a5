"""`dicomnode conformance`: what the node says of itself."""

import argparse

from dicomnode.cli import options, output


def add(commands: options.Commands) -> None:
    """The command's flags."""
    parser = commands.add_parser("conformance", help="print the DICOM conformance statement")
    options.archive(parser)
    options.json_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it, made from the tables the server is built from."""
    from dicomnode import conformance

    config = options.load(arguments)
    if arguments.json:
        output.as_json(conformance.as_values(config))
    else:
        print(conformance.as_markdown(config), end="")
    return 0
