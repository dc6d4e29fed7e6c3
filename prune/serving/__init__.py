"""Which programs read a checkpoint as transformers does: what each derives for every layer, held against the truth."""
