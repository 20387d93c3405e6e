"""What pyproject.toml cannot say: the README as an index shows it, where the files that it links to are not."""

import re
from pathlib import Path


def for_an_index(readme):
    """``readme`` without figures of the source tree, its links to files of it as plain text; links into the web
    stay.
    """
    own = r"\((?!https?:|#)[^)]*\)"
    return re.sub(rf"\[([^]]*)\]{own}", r"\1", re.sub(rf"!\[[^]]*\]{own}\n*", "", readme))


if __name__ == "__main__":
    from setuptools import setup

    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=for_an_index(text), long_description_content_type="text/markdown")
