"""Names of the runtimes that `--runtime` knows; nothing else, so that a flag's help costs no import."""

NAMES = ("vllm", "llama.cpp", "mlx", "ctranslate2", "transformers4", "openvino", "onnxruntime")
