"""Names of users and groups, also of those that the host does not know."""

import os

import pytest

from retrain_worker.adapters.account_names import group_name, user_name
from retrain_worker.adapters.stack_tables import StackTables
from retrain_worker.cli import options


def test_an_account_that_the_host_does_not_know_has_its_number_as_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (user_name(0), group_name(0)) == ("root", "root")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.delenv("SUDO_USER", raising=False)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    assert user_name() == options.user_name() == "54321"
    assert StackTables("sqlite:///x.db")
