"""The shim, compiled once."""

import os
import sys
from pathlib import Path

import pytest

from tests.powerloss import shim


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Skips where it cannot be: in CI that is a failure."""
    missing = "a C compiler (cc, gcc or clang)" if shim.compiler() is None else ""
    missing = missing or ("Linux, for LD_PRELOAD" if sys.platform != "linux" else "")
    if missing:
        text = f"tests/powerloss needs {missing}: power cuts and failing system calls were not tested"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return shim.build(tmp_path_factory.mktemp("shim"))
