"""Every decoder-only family of the installed transformers as a tiny random model, and the check that a cut is exact."""
