"""A checkpoint directory as untrusted input: headers, index, companions, and the fields that say how deep it is."""
