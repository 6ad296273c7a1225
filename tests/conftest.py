"""Settings for all tests."""

import os

from hypothesis import settings

# A busy machine is no failure; and a change is judged by the same examples each time.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
