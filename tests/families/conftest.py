"""The fixtures of all tests, for a tiny model of each family."""

import pytest
from small_models import tiny

from kvlib.families import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tokenizer):
    return tiny(request.param, tokenizer)


@pytest.fixture
def model(made):
    return made[0]


@pytest.fixture
def processor(made):
    return made[1]
