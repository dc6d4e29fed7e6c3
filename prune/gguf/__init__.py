"""GGUF files: read as untrusted input, cut without a detour, and turned into a transformers checkpoint."""
