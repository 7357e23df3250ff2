"""The faults of `tests/mutations.py` fit the code of today."""

import sys

import pytest

from kvlib.lab.report import paths

sys.path.insert(0, str(paths.ROOT / "tests"))

import mutations  # noqa: E402


@pytest.mark.parametrize("fault", mutations.MUTATIONS, ids=lambda fault: fault.name)
def test_the_text_that_a_fault_replaces_stands_in_its_file_once(fault):
    mutations.check_is_current(fault)
    assert fault.before != fault.after
