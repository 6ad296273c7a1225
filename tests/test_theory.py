"""The page on the theory is true: its examples run and print what they say."""

import doctest
import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "theory.md").read_text()
EXAMPLES = "\n".join(re.findall(r"^```pycon\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def test_the_examples_print_what_they_say():
    test = doctest.DocTestParser().get_doctest(EXAMPLES, {}, "theory.md", "theory.md", 0)
    assert len(test.examples) > 20
    assert doctest.DocTestRunner().run(test).failed == 0
