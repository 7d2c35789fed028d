"""The command line, called in this process."""

import pytest

from discdiff.train import cli


def discdiff(*args):
    """Runs a command; its exit code."""
    with pytest.raises(SystemExit) as exit:
        cli.main([str(a) for a in args])
    return exit.value.code
