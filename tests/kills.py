"""Ten kills at random moments, for a run that is typed again after each: what must then be equal to a run that nobody touched."""

import os
import subprocess

from clbench import seeding
from clbench.store import determined, read_events

KILLS = 10


def came_to_its_end(command, seconds=None, env=None):
    """One try at `command`; False where it was killed (SIGKILL) because `seconds` were over."""
    try:
        subprocess.run(command, env=env, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        return False
    return True


def killed_and_continued(command, folder, whole, earliest, latest, env=None):
    """Try `command` until it was killed ten times, then let it end in `folder`.

    Each try lasts between `earliest` and `latest` of the `whole` seconds that a run takes which nobody touches.
    """
    draws = seeding.generator(int(os.environ.get("CLBENCH_TEST_SEED", "0")), "kills")
    kills = 0
    for _ in range(60):
        if kills == KILLS:
            break
        if came_to_its_end(command, float(draws.uniform(earliest, latest)) * whole, env):
            next(folder.rglob("DONE")).unlink()  # it got through too soon: as if killed just before the end
        else:
            kills += 1
    assert kills == KILLS
    assert came_to_its_end(command, None, env)


def events_of(results):
    """The determined part of the events of the one run in `results`."""
    (log,) = results.rglob("events.jsonl")
    return determined(read_events(log))
