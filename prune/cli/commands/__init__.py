"""One module per command, each with a function `command`; `prune.cli.app` knows their names."""
