"""Runs that are killed again and again: ``killed_runs_worker.py FOLDER SEED COUNT``.

Everything is imported once; each session of a run is a fork of this process, which trains nothing
itself. In FOLDER/report.json it says of each kill where it was and what was lost by it.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from light_language import LightPreset

from polargrad.language import TrainSettings, checkpoint, train
from polargrad.records import files, read_json, read_records

STEPS, INTERVAL = 40, 3
KILLS_OF_A_RUN = 2


def session(folder, out, prepare=lambda: None):
    """Start a process that trains, or goes on to train; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        prepare()
        train(
            TrainSettings(
                preset=LightPreset(dropout=0.3),
                optimizer="polargrad",
                lr=0.05,
                steps=STEPS,
                data=folder / "text.txt",
                cache=folder / "cache",
                eval_every=7,
                watch_every=5,
                checkpoint_every=INTERVAL,
                out=out,
                resume=(out / "settings.json").exists(),
            )
        )
        code = 0
    finally:
        os._exit(code)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at_byte(room):
    """Die while a checkpoint is written, after some bytes of it have reached the file."""

    class Mortal(checkpoint._Watched):
        left = room

        def write(self, content):
            content = bytes(content)
            if len(content) >= Mortal.left:
                super().write(content[: Mortal.left])
                self.flush()
                die()
            Mortal.left -= len(content)
            return super().write(content)

    checkpoint._Watched = Mortal


def at_call(owner, name, number):
    """Die instead of a call of a function, the ``number``-th."""
    function, left = getattr(owner, name), number

    def mortal(*arguments, **named):
        nonlocal left
        left -= 1
        if not left:
            die()
        return function(*arguments, **named)

    setattr(owner, name, mortal)


def ways(chance):
    """A place of each kind at which a session dies, by its name."""
    size = 60_000  # of a checkpoint, about
    return {
        "within a checkpoint": lambda: at_byte(chance.randrange(10 * size)),
        "before a file is on disk": lambda: at_call(files.os, "fsync", chance.randrange(3, 30)),
        "before a file has its name": lambda: at_call(Path, "replace", chance.randrange(2, 14)),
        "before an old one is removed": lambda: at_call(Path, "unlink", chance.randrange(1, 8)),
    }


def kill_once(folder, out, chance, seconds, number):
    """Start a session and see it die; return where, or None if it has come to its end."""
    kinds = ways(chance)
    if number % 2:
        where = list(kinds)[number // 2 % len(kinds)]
        child = session(folder, out, kinds[where])
    else:
        where = "at a random moment"
        child = session(folder, out)
        wait_for(child, out, last_record(out) + chance.randrange(STEPS // 2))
        time.sleep(chance.uniform(0.0, 2.0 * seconds / STEPS))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return where
    assert os.WEXITSTATUS(status) == 0, f"a session failed: {where}"
    return None


def wait_for(child, out, step):
    """Wait until a session has recorded a step, or has ended."""
    while last_record(out) < step and not has_ended(child):
        time.sleep(0.001)


def has_ended(child):
    """Whether a process has ended, and waits for us to ask how."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def last_record(out):
    path = out / "records.jsonl"
    return max((r["step"] for r in read_records(path)), default=0) if path.exists() else 0


def last_session(out):
    path = out / "provenance.json"
    sessions = json.loads(path.read_text()) if path.exists() else []
    return sessions[-1]["from_step"] if sessions else 0


def killed_run(folder, number, seed, seconds):
    """Kill a run, resume it, kill it again, let it end; return what is to be known of it."""
    chance = random.Random(f"{seed}:{number}")
    out, kills = folder / f"killed-{number}", []
    while not kills:  # a machine that is busy may let a run end before it is killed
        shutil.rmtree(out, ignore_errors=True)
        for kill in range(KILLS_OF_A_RUN):
            where = kill_once(folder, out, chance, seconds, number + kill)
            if where is None:
                break
            kills.append({"where": where, "recorded": last_record(out)})
    _, status = os.waitpid(session(folder, out), 0)
    assert status == 0, f"run {number} was not resumed after {kills}"
    settings = read_json(out / "settings.json")
    return {"out": out.name, "kills": kills, "resumed": last_session(out), **settings["preset"]}


def main():
    # Figures take longer than such a run, and nothing depends on them.
    training = sys.modules[train.__module__]
    training.draw_losses = training.draw_spectra = lambda *places, **named: None
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _, status = os.waitpid(session(folder, folder / "warm"), 0)
    began = time.monotonic()
    _, status = os.waitpid(session(folder, folder / "whole"), 0)
    assert status == 0
    seconds = time.monotonic() - began
    runs = [killed_run(folder, number, seed, seconds) for number in range(count)]
    (folder / "report.json").write_text(json.dumps(runs))


if __name__ == "__main__":
    main()
