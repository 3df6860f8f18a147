"""`redis-acl`: the ACL rules of Redis that give each role the rights that it needs, and no others."""

from __future__ import annotations

import argparse
import sys

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.redis_names import RedisNames
from retrain_worker.domain.redis_rights import Role, acl_rules


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Prints one command for each role, for the keys of REDIS_PREFIX and INSTANCE. Needs Redis 7.0. Passwords are "
        "not changed."
    )
    options.add_places(parser)
    parser.add_argument(
        "--role", action="append", choices=list(Role), dest="roles", help="only this role (may be repeated)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the commands on stdout, and what is left to do on stderr."""
    names = options.read_valid_settings(arguments).redis_names
    roles = [Role(role) for role in arguments.roles or Role]
    for role in roles:
        print(f"ACL SETUSER {user_of(role, names)} {' '.join(acl_rules(role, names))}")
    print(
        f"give each user a password (ACL SETUSER {user_of(roles[0], names)} >PASSWORD), keep the rules (ACL SAVE or "
        f"CONFIG REWRITE), and name the user in the URL: redis://{user_of(roles[0], names)}:PASSWORD@HOST:6379/0",
        file=sys.stderr,
    )
    return ExitCode.DONE


def user_of(role: Role, names: RedisNames) -> str:
    """The name of the user in Redis; each instance has its own, because a rule replaces the keys of a user."""
    return "-".join(filter(None, ("retrain", str(role), names.instance)))
