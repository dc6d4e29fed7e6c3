"""The stages of a run that are more than one call: each writes one output below the run directory, or keeps it."""
