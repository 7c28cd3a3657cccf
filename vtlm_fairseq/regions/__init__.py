"""Region stores: what ``--regions`` names."""

MAX_REGIONS = 36  # of --max-regions, where it is not given


def numbered_classes(count: int) -> list[str]:
    """Names for classes that have none."""
    return [f"class {c}" for c in range(count)]
