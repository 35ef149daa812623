"""Runs inside the campaign's child processes, by Python's own start-up: slows, pauses or kills at a file operation.

An audit hook sees every file operation before it is done, so that a moment of the write protocol can be chosen and met
exactly, without a line for it in the product. What to do stands as JSON in FAULTS_HOOK; see `benchmarks.faults.hook`.
"""

import itertools
import json
import os
import re
import sys
import time

OPERATIONS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
RECORD = re.compile(r"records/\d+\.json$")


def install(plan):
    where, mine = plan["where"], plan["process"] in " ".join(sys.orig_argv)
    pauses, number = set(plan["pauses"]), itertools.count(1)

    def hook(operation, arguments):
        if operation not in OPERATIONS:
            return
        target = arguments[1] if operation in ("os.rename", "os.link") else arguments[0]
        if not isinstance(target, (str, os.PathLike)) or not absolute(target).startswith(where):
            return
        moment = next(number) if mine else 0
        if moment and plan["tally"]:
            append(plan["tally"], moment)
        if moment and moment == plan["kill_at"]:
            strike(plan["signal"], plan["delay"])
        if moment in pauses:
            pause(f"{plan['gate']}.{moment}")
        if operation == "os.rename" and RECORD.search(os.fspath(target)):
            time.sleep(plan["slow"])
            append(plan["log"], os.fspath(target))

    sys.addaudithook(hook)


def absolute(target):
    """As text; what can't be one lies under no folder of the campaign."""
    target = os.fspath(target)
    if isinstance(target, bytes):
        target = os.fsdecode(target)
    return target if target.startswith("/") else f"{os.getcwd()}/{target}"


def strike(number, delay):
    """Sends the process a signal, now or after some seconds."""
    if not delay:
        os.kill(os.getpid(), number)
        return
    import threading

    timer = threading.Timer(delay, os.kill, [os.getpid(), number])
    timer.daemon = True
    timer.start()


def append(path, line):
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def pause(gate):
    """Waits until the campaign removes the file that says so."""
    append(gate, os.getpid())
    while os.path.exists(gate):
        time.sleep(0.01)


if "FAULTS_HOOK" in os.environ:
    install(json.loads(os.environ["FAULTS_HOOK"]))
