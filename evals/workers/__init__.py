"""Programs that serve a checkpoint in an environment of their own, asked in token ids over pipes (`protocol.md`)."""
