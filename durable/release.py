"""Which release of this package runs."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The version of this package; where it runs from a folder that was never installed, nobody knows it."""
    try:
        return version("durable-engine")
    except PackageNotFoundError:
        return "unknown"
