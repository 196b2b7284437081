"""A stream's meaning is fixed by name@version: what moves its scores turns one of these red, and must come with a new version."""

import hashlib

import numpy as np
import pytest

from clbench import configuration
from clbench.stream import digest, plain

SPECS = {
    "toy": "56fcaeb03dbac69f",
    "alg": "302f4ab858dec54a",
    "mw3-demo": "1b54cfca969d72c6",
    "cw10-demo": "e0815db879009b32",
    "cw20-demo": "0c47bd770fd1abd6",
    "mw3-masked": "7e43f730399277ba",
    "mw3-goal-masked": "8f4fcc3e84b0728c",
    "mw3-goal": "03dc842ea89e6975",
    "memorize": "48e9f3d826102fe7",
    "detect": "47c9ab947f9e546a",
    "reasoning": "b6fe04007bfc84ba",
    "drift": "3c21cea8fc2fa776",
    "lookup": "e1b9e1a8256b7e9e",
    "recall": "6d9422da3ae71fa4",
    "overwrite": "d7fb6ccca7b13caf",
    "copy": "24a3705d76eb4217",
    "reverse": "d53c3000bdc59fcc",
    "taxi": "ea9bff042fcad342",
    "taxi-text": "9e597e927b7420e6",
}


def described(name):
    """The description without the installed versions, which are part of a run's identity but not of the stream's meaning."""
    spec = plain(configuration.stream_named(name, "smoke").spec())
    for key in ("metaworld", "mujoco"):
        spec["options"].pop(key, None)
    return spec


@pytest.mark.parametrize("name", SPECS)
def test_the_description_of_a_stream_is_frozen(name):
    assert digest(described(name))[:16] == SPECS[name]


FIRST_TEXT = {"alg": "cee569e69aa32249", "taxi-text": "73958c308666362d"}


@pytest.mark.parametrize("name", FIRST_TEXT)
def test_the_first_examples_of_text_are_frozen(name):
    stream = configuration.stream_named(name, "smoke")
    content = b""
    for task in stream.tasks:
        experience = task.experience(0)
        experience.meter.grant(32)
        tokens, mask, _ = experience.windows(32, experience.longest)
        content += tokens.astype("<i4").tobytes() + mask.tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == FIRST_TEXT[name]


FIRST_STEPS: dict[str, list[float]] = {
    "push": [0.1894, 0.361, 0.3994],
    "window-close": [0.155, 0.6922, 0.3499],
    "hammer": [0.2783, 0.4219, 0.2716],
}


@pytest.mark.parametrize("number", range(3))
def test_the_first_demonstrations_of_mw3_are_frozen(number):
    # means over 4096 draws; simulators differ between processors in the last digits, a change of the data in the first
    task = configuration.stream_named("mw3-demo", "smoke").tasks[number]
    experience = task.experience(0)
    experience.meter.grant(4096)
    observations, actions = experience.steps(4096)
    found = [float(observations[:, :39].mean()), float(np.abs(actions).mean()), float(observations[:, 36:39].std())]
    assert np.allclose(found, FIRST_STEPS[task.name], atol=2e-3), found


def test_two_visits_of_cw20_are_two_columns_when_cued_and_one_when_hidden():
    cued = configuration.stream_named("cw20-demo", "smoke")
    hidden = configuration.stream_named("cw20-demo", "smoke", {"identity": "hidden"})
    assert len(cued.tasks) == len(cued.phases) == len(hidden.phases) == 20
    assert cued.tasks[10].name == "hammer-2"
    assert len(hidden.tasks) == 10
    assert hidden.phases[13].columns == (3,)
    assert all(task.info.index is None and task.info.input_size == 39 for task in hidden.tasks)
    assert cued.tasks[0].info.input_size == 39 + cued.tasks[0].info.num_tasks == 39 + 24
