"""Scores of translations."""

BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED = 1000, 12345  # sacreBLEU's own defaults
METEOR_JAR = (
    "pip download --no-deps pycocoevalcap==1.2 && unzip pycocoevalcap-1.2-*.whl 'pycocoevalcap/meteor/*' gives "
    "pycocoevalcap/meteor/meteor-1.5.jar and, in data/ beside it, the English paraphrase table"
)
"""How to get it."""
