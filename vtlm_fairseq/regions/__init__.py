"""Region stores: what ``--regions`` names."""
