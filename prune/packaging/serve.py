"""'Serve it' in the card: one line to run for each runtime that reads the exported config rightly."""

from __future__ import annotations

from collections.abc import Sequence

from prune.serving.readers import Reading

LINES = {
    "vllm": "vllm serve THIS_CHECKPOINT",
    "llama.cpp": "python convert_hf_to_gguf.py THIS_CHECKPOINT --outfile model.gguf && llama-server -m model.gguf",
    "mlx": 'mlx_lm.generate --model THIS_CHECKPOINT --prompt "Hello" --max-tokens 32',
    "ctranslate2": "ct2-transformers-converter --model THIS_CHECKPOINT --output_dir converted",
    "openvino": "optimum-cli export openvino --model THIS_CHECKPOINT --task text-generation-with-past converted",
    "onnxruntime": "python -m onnxruntime_genai.models.builder"
    " -i THIS_CHECKPOINT -o converted -p fp32 -e cpu -c converted",
    "transformers4": 'python -c "from transformers import pipeline; '
    "print(pipeline('text-generation', 'THIS_CHECKPOINT')('Hello', max_new_tokens=32, do_sample=False))\"",
}
"""Runtime -> a shell line; tests marked `runtime` run them."""


def serve_section(found: Sequence[Reading]) -> str:
    """Markdown: who reads this checkpoint as transformers 5 does, how to start them, and who must not be used."""
    lines = ["## Serve it", "", "Read as transformers 5 reads it, from each program's source:", "", "```"]
    right = [reading for reading in found if reading.status == "right"]
    lines += [LINES[name] for name in dict.fromkeys(reading.runtime for reading in right)]
    versions = ", ".join(reading.name for reading in right)
    lines += ["```", "", f"Versions looked at: {versions}."]
    for reading in found:
        if reading.status == "wrong":
            lines.append(f"\n**Do not use {reading.name}**: without an error, it {reading.reason}.")
        elif reading.status == "refused":
            lines.append(f"\nNot with {reading.name}, which refuses it: it {reading.reason}.")
        elif reading.status == "right" and reading.reason:
            lines.append(f"\n{reading.name}: {reading.reason}.")
    return "\n".join(lines) + "\n"
