"""How the worker of the stage TRAIN starts: as a child process, by torchrun, or by a command line of the operator."""

from __future__ import annotations

import os
import sys

#: the first word of TRAIN_LAUNCHER that means torch's own launcher on this host
TORCHRUN = "torchrun"
#: the ranks meet on the loopback interface; no folder of log files remains
_TORCHRUN_COMMAND = (
    *(sys.executable, "-P", "-m", "torch.distributed.run"),
    *("--local-addr", "localhost", "--log-dir", os.devnull),
)
#: gloo and NCCL would take the interface of the host's name, which the unit's IPAddressDeny= may block
_TORCHRUN_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def launched(command: tuple[str, ...], launcher: tuple[str, ...]) -> tuple[str, ...]:
    """The command that starts `command` by the words of TRAIN_LAUNCHER; no words: `command` itself."""
    if launcher[:1] == (TORCHRUN,):
        return (*_TORCHRUN_COMMAND, *launcher[1:], "--no-python", *command)
    return (*launcher, *command)


def environment_for(launcher: tuple[str, ...]) -> dict[str, str]:
    """What the environment of the started command holds unless the daemon's own has it."""
    return dict(_TORCHRUN_ENVIRONMENT) if launcher[:1] == (TORCHRUN,) else {}
