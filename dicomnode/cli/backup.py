"""`dicomnode backup` and `restore`: the archive, beside a node that serves, to a folder; and back to an empty root."""

import argparse
from pathlib import Path

from dicomnode.cli import options, output
from dicomnode.cli.admin import existing

MIB = 1 << 20


def add(commands: options.Commands) -> None:
    """The commands' flags."""
    backup = commands.add_parser("backup", help="copy the archive to a folder, while the node serves")
    backup.add_argument("folder", type=Path, metavar="DIR", help="where to; what a backup of before left there is kept")
    backup.add_argument("--copy", action="store_true", help="copy files even where they could be hard links")
    backup.set_defaults(run=back_up)
    restore = commands.add_parser("restore", help="make an archive of a backup, in an empty root")
    restore.add_argument("folder", type=Path, metavar="DIR", help="the backup")
    restore.add_argument("--dry-run", action="store_true", help="read all of it and compare, but write nothing")
    restore.set_defaults(run=give_back)
    for parser in (backup, restore):
        options.archive(parser)
        options.json_flag(parser)


def back_up(arguments: argparse.Namespace) -> int:
    """0 when it is whole; 1 also when the archive itself has lost files: the backup holds the others."""
    from dicomnode import backups

    settings = options.load(arguments)
    with existing(settings) as store, output.progress(quiet=arguments.json) as report:
        made = backups.back_up(store, settings.root, arguments.folder, report, arguments.config, copy=arguments.copy)
    if arguments.json:
        output.as_json(made)
    else:
        size = made["bytes"] / MIB
        output.say(f"{made['files']} instances, {size:.1f} MiB in {made['folder']}; {made['copied']} files were new")
    if made["lost"]:
        output.complain(f"{len(made['lost'])} instances have no file: see `dicomnode verify`")
    return 1 if made["lost"] else 0


def give_back(arguments: argparse.Namespace) -> int:
    """0 when every byte was compared and the restored archive is sound."""
    from dicomnode import backups

    settings = options.load(arguments)
    with output.progress(quiet=arguments.json) as report:
        done = backups.restore(arguments.folder, settings, report, dry_run=arguments.dry_run)
    if arguments.json:
        output.as_json(done)
    else:
        what = "a whole backup of" if arguments.dry_run else "restored to the state of"
        output.say(f"{what} {done['made_at']}: {done['files']} instances, {done['bytes'] / MIB:.1f} MiB")
    return 0
