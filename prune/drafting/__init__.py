"""A draft for speculative decoding: a few of the original's own layers, trained so that their tokens are kept."""

RECORD = "draft.json"
"""What was measured, beside the draft's checkpoint."""
