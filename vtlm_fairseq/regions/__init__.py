"""Region stores: what ``--regions`` names."""

MAX_REGIONS = 36  # of --max-regions, where it is not given
