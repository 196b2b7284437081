"""A run's stream must be one that this version builds, key by key, with simulators in the range that clbench asks for."""

from __future__ import annotations

import copy

import pytest

from clbench import configuration
from clbench.known_streams import contradiction, is_earlier
from clbench.stream import plain


def spec_of(name, **options):
    return copy.deepcopy(plain(configuration.stream_named(name, "smoke", options).spec()))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("toy", {}),
        ("toy", {"joint": True}),
        ("toy", {"boundaries": False}),
        ("alg", {"only": 2}),
        ("alg", {"identity": "blind"}),
        ("mw3-demo", {"identity": "hidden", "joint": True}),
        ("cw20-demo", {"only": 13}),
    ],
)
def test_every_variant_of_a_built_in_stream_is_known(name, options):
    assert contradiction(spec_of(name, **options)) is None


def test_another_patch_of_a_simulator_is_allowed_and_another_major_version_is_not():
    spec = spec_of("mw3-demo")
    spec["options"]["metaworld"] = "3.9.2"
    assert contradiction(spec) is None
    spec["options"]["metaworld"] = "4.0.0"
    assert contradiction(spec) == ("stream.spec.options.metaworld", "<4,>=3.1", "4.0.0")
    spec["options"]["metaworld"] = "newest"
    assert contradiction(spec)[2] == "newest"


def test_what_was_typed_over_a_stream_is_named():
    key, expected, found = contradiction(spec_of("toy", units=77))
    assert key == "stream.spec.phases"
    assert "'units': 2048" in expected and "'units': 77" in found


@pytest.mark.parametrize(("name", "options"), [("mw3-demo", {"validation": True}), ("alg", {"validation": True, "only": 1})])
def test_streams_for_tuning_are_no_streams_of_a_table(name, options):
    assert contradiction(spec_of(name, **options))[0] == "stream"


def test_a_stream_of_another_name_or_version_is_not_known():
    spec = spec_of("toy")
    assert contradiction({**spec, "name": "mine", "family": "mine"}) == (
        "stream",
        "a stream of this version, as clbench list streams names them",
        "mine@1",
    )
    assert contradiction({**spec, "version": 2})[:2] == ("stream.spec.version", "1")
    assert contradiction({**spec, "budget": "huge"})[0] == "stream"


def test_an_earlier_version_is_told_from_one_that_never_was():
    built = spec_of("taxi-text")
    assert is_earlier({**built, "version": built["version"] - 1})
    for other in (built, {**built, "version": built["version"] + 1}, {**built, "version": 0}, {**built, "version": "1"}):
        assert not is_earlier(other)
    assert not is_earlier({**built, "name": "mine", "family": "mine", "version": 1})
