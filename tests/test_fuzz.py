"""A few of the generated bad inputs of scripts/fuzz.py, the same ones each time."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from .bad_input import KINDS
from .fuzzing import make_world, run_case


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "here")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bad_input_ends_in_one_line(world, kind):
    @settings(
        max_examples=5, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=KINDS[kind]())
    def check(case):
        run_case(case, world)

    check()
