"""Settings for the tests of the relaxation."""

import pytest
from scenarios import one_thread


@pytest.fixture(autouse=True, scope="package")
def quiet():
    with one_thread():
        yield
