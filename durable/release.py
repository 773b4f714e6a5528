"""Which release of this package runs."""


def package_version() -> str:
    """The version of this package; where it runs from a folder that was never installed, nobody knows it."""
    from importlib.metadata import PackageNotFoundError, version  # dear to import, and most programs never ask

    try:
        return version("durable-engine")
    except PackageNotFoundError:
        return "unknown"
