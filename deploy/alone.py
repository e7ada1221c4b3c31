"""Runs a command while no other holds the lock: python3 deploy/alone.py LOCKFILE COMMAND...

Two `make up` in one folder would otherwise install over each other. Any Python 3 can run this.
"""

import fcntl
import os
import sys
from pathlib import Path

lock_file, *command = sys.argv[1:]
Path(lock_file).parent.mkdir(parents=True, exist_ok=True)
lock = Path(lock_file).open("a")  # noqa: SIM115 - held until the command has ended
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("another `make` installs here; waiting until it has finished", file=sys.stderr, flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock.fileno(), True)  # the command keeps it, and gives it back with its end
os.execvp(command[0], command)
