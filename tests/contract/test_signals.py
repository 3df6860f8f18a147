"""A signal at any instant only sets a flag: its handler must not need a lock that the interrupted code holds."""

import subprocess
import sys

HAIL = """
import os, signal, threading
from retrain_worker.daemon.signals import Signals
signals, is_over = Signals(), threading.Event()
def hail():
    for _ in range(100_000):
        os.kill(os.getpid(), signal.SIGHUP)
    is_over.set()
threading.Thread(target=hail, daemon=True).start()
while not is_over.is_set():
    signals.wait(0)
os.kill(os.getpid(), signal.SIGTERM)
signals.wait(60)
print(signals.reloading, signals.stopping)
"""


def test_many_signals_between_sleep_and_wake_block_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", HAIL], capture_output=True, text=True, timeout=240, check=False)

    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr
