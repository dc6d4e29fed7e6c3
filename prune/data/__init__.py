"""Files and hub data sets -> rows in one form -> documents -> named domains -> padded batches, with hashes."""
