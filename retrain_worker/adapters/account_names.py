"""Names of users and groups; the number of an account that the host does not know."""

from __future__ import annotations

import grp
import os
import pwd

#: of quantum-retraining-worker.service (systemd/sysusers.conf)
SERVICE_USER, SERVICE_GROUP = "quantum-retrain", "quantum"


def user_name(uid: int | None = None) -> str:
    """The name of a user; by default of the one whose rights this process has."""
    number = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(gid: int | None = None) -> str:
    """The name of a group; by default of the one of this process."""
    number = os.getegid() if gid is None else gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
