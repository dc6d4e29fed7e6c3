"""Train the embedded demo model: a 16-layer Qwen 3 decoder that can add, follow chains, and answer about stories.

    python scripts/train_demo_model.py --stories STORIES.txt --eval_stories EVAL.txt -o OUT [--minutes 75]

What it does: trains a byte-level BPE tokenizer (digits are single tokens, the question's frame is one token), then
the model on a mixture of generated items (loss on the answer only) and short stories (loss on every token), in
float32, with Muon on the layers' matrices, AdamW on the rest, and a cosine schedule that follows the clock, so that a
slow machine ends in time with fewer steps; rounds to bfloat16 and measures the rounded model on held-out items.
Resumes from OUT/training.pt after a kill. Two CPU cores need a little over an hour.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from prune.embedded.generators import EVAL_SEED_BASE, GENERATORS, distinct_items, items, story_questions

END = "<|endoftext|>"
PAD = "<|pad|>"
# Frames of the questions stand first, so that BPE can learn each as one token; digits stand alone.
PRE_TOKEN = (
    r"Question: What is |\?\nAnswer:|\nQuestion:|\nAnswer:| plus | minus | \+ | - | \* |\d| ?\p{L}+|"
    r" ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
# Rows of one optimiser step, by family, and the length every row is padded to.
MIXTURE = {"arithmetic_2da": 16, "arithmetic_2ds": 24, "arithmetic_3da": 96, "arithmetic_1dc": 56}
CHAIN_ROWS, STORY_ROWS, TEXT_ROWS = 16, 40, 12
SHAPES = {"arithmetic": 15, "chain": 32, "story": 121, "text": 128}


def train_tokenizer(stories: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the stories and a sample of every task's training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    samples = [
        item.prompt + item.completion
        for name in GENERATORS
        for item, _ in zip(items(name, 0, "train"), range(2000), strict=False)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*stories, *samples], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def config_for(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by five Newton-Schulz steps (Jordan 2024), scaled to AdamW's usual update size.

    torch.optim.Muon computes these steps in bfloat16, which this kind of CPU emulates: 17 times slower than float32
    here. On these tasks Muon needed less than half of AdamW's items (two-digit sums: 90 % after 90 thousand items).
    """

    COEFFICIENTS = (3.4445, -4.775, 2.0315)

    def __init__(self, params: list, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for parameters in shapes.values():  # one batched product per shape
                updates = []
                for p in parameters:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                for p, update in zip(parameters, self.orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(update, alpha=group["lr"] * 0.2 * max(p.shape) ** 0.5)

    @classmethod
    def orthogonalise(cls, x: torch.Tensor) -> torch.Tensor:
        """[n, a, b] -> the nearest semi-orthogonal matrices, approximately."""
        a, b, c = cls.COEFFICIENTS
        tall = x.shape[1] > x.shape[2]
        x = x.mT if tall else x
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(5):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.mT if tall else x


class Batches:
    """Token batches of each family; every call to `step` gives the micro-batches of one optimiser step."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stories: list[str], seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.questions = random.Random(seed + 1)
        self.streams = {name: items(name, seed * 100 + i, "train") for i, name in enumerate(GENERATORS)}
        eos = tokenizer.eos_token_id
        self.stories = [[eos, *ids, eos] for ids in tokenizer(stories)["input_ids"]]

    def _items(self, counts: dict[str, int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [next(self.streams[name]) for name, count in counts.items() for _ in range(count)]
        prompts = self.tokenizer([r.prompt for r in rows])["input_ids"]
        answers = self.tokenizer([r.completion for r in rows])["input_ids"]
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            tokens = [*prompt, *answer, self.tokenizer.eos_token_id][:length]
            ids[i, : len(tokens)] = torch.tensor(tokens)
            labels[i, len(prompt) : len(tokens)] = ids[i, len(prompt) : len(tokens)]
        return ids, labels

    def _stories(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stories with all their questions; loss on the answers, and on the end of text after the last one."""
        ids = torch.full((rows, length), self.tokenizer.pad_token_id)
        labels = torch.full((rows, length), -100)
        for i in range(rows):
            at = 0
            pieces = story_questions(self.questions)
            for j, (prompt, answer) in enumerate(pieces):
                end = [self.tokenizer.eos_token_id] if j == len(pieces) - 1 else []
                asked = self.tokenizer(prompt)["input_ids"]
                said = [*self.tokenizer(answer)["input_ids"], *end]
                tokens = torch.tensor([*asked, *said])[: length - at]
                ids[i, at : at + len(tokens)] = tokens
                labels[i, at + len(asked) : at + len(tokens)] = tokens[len(asked) :]
                at += len(tokens)
        return ids, labels

    def _text(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.full((rows, length), self.tokenizer.pad_token_id)
        for i in range(rows):
            story = self.rng.choice(self.stories)
            start = self.rng.randrange(max(1, len(story) - length + 1)) if self.rng.random() < 0.6 else 0
            window = story[start : start + length]
            ids[i, : len(window)] = torch.tensor(window)
        labels = ids.masked_fill(ids == self.tokenizer.pad_token_id, -100)
        labels[:, 0] = -100
        return ids, labels

    def step(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            self._items(MIXTURE, SHAPES["arithmetic"]),
            self._items({"chain": CHAIN_ROWS}, SHAPES["chain"]),
            self._stories(STORY_ROWS, SHAPES["story"]),
            self._text(TEXT_ROWS, SHAPES["text"]),
        ]


WEIGHTS = (1.0, 0.5, 1.0, 1.0)
"""Weight of each family's mean loss: arithmetic, chain, story questions, story text."""


def loss_of(model: Qwen3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy; the head is applied only where a label stands."""
    hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]  # [B, T-1, d]
    wanted = labels[:, 1:]
    mask = wanted != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[mask]), wanted[mask])


@torch.no_grad()
def exact_match(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list) -> float:
    """Share of items whose completion greedy decoding would say (the argmax is right at every answer token)."""
    hits = 0
    for begin in range(0, len(rows), 256):
        part = rows[begin : begin + 256]
        prompts = tokenizer([r.prompt for r in part])["input_ids"]
        full = [
            p + tokenizer(r.completion)["input_ids"] + [tokenizer.eos_token_id]
            for p, r in zip(prompts, part, strict=True)
        ]
        ids = torch.full((len(part), max(map(len, full))), tokenizer.pad_token_id)
        for i, tokens in enumerate(full):
            ids[i, : len(tokens)] = torch.tensor(tokens)
        best = model(ids).logits.argmax(-1)
        hits += sum(
            bool((best[i, len(p) - 1 : len(f) - 1] == ids[i, len(p) : len(f)]).all())
            for i, (p, f) in enumerate(zip(prompts, full, strict=True))
        )
    return hits / len(rows)


@torch.no_grad()
def bits_per_byte(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, stories: list[str]) -> float:
    """Total negative log2-likelihood of the stories (each after the end-of-text token) over their UTF-8 bytes."""
    nats, size = 0.0, 0
    for story in stories:
        tokens = tokenizer(story)["input_ids"][:500]
        ids = torch.tensor([[tokenizer.eos_token_id, *tokens]])
        nats += model(ids, labels=ids).loss.item() * len(tokens)
        size += len(tokenizer.decode(tokens).encode())
    return nats / math.log(2) / size


def evaluate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, stories: list[str], count: int
) -> dict[str, float]:
    model.eval()
    seed = EVAL_SEED_BASE
    result = {n: exact_match(model, tokenizer, distinct_items(n, seed, count)) for n in GENERATORS if n != "chain"}
    for steps in range(1, 5):
        result[f"chain_{steps}"] = exact_match(model, tokenizer, distinct_items("chain", seed, count, steps=steps))
    result["bits_per_byte"] = bits_per_byte(model, tokenizer, stories)
    model.train()
    return {k: round(v, 4) for k, v in result.items()}


def read_stories(path: Path) -> list[str]:
    return [s.strip() for s in path.read_text(encoding="utf8").split(END) if s.strip()]


def start(args: argparse.Namespace, stories: list[str]) -> tuple[PreTrainedTokenizerFast, Qwen3ForCausalLM]:
    """Tokenizer and model before the first step; a resumed run must not learn another vocabulary."""
    if (args.output_dir / "training.pt").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.output_dir)
    else:
        if args.init:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(args.init)
        else:
            tokenizer = train_tokenizer(stories, args.vocab_size)
        tokenizer.save_pretrained(args.output_dir)
    if args.init:
        model = Qwen3ForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    else:
        model = Qwen3ForCausalLM(config_for(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}", flush=True)
    return tokenizer, model


class Training:
    """The model and its optimisers, with what a killed run goes on from: weights, moments, steps and seconds.

    Attributes:
        step: optimiser steps done, those before a kill included.
        spent: seconds of the runs before this one.
    """

    def __init__(self, model: Qwen3ForCausalLM, learning_rate: float, file: Path) -> None:
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
        others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
        self.model, self.file = model, file
        self.optimizers = [
            Muon(matrices, lr=learning_rate, weight_decay=0.05),
            torch.optim.AdamW(others, lr=learning_rate / 3, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.step, self.spent = 0, 0.0
        if file.exists():
            state = torch.load(file, weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            self.step, self.spent = state["step"], state["seconds"]
            print(f"resumed at step {self.step}", flush=True)

    def save(self, seconds: float) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": seconds,
        }
        torch.save(state, self.file.with_suffix(".tmp"))
        self.file.with_suffix(".tmp").replace(self.file)

    def take_step(self, batches: Batches, done: float) -> list[float]:
        """One optimiser step, with the share `done` of the time behind it; the loss of each family."""
        factor = min(1.0, (self.step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        losses = []
        for weight, (ids, labels) in zip(WEIGHTS, batches.step(), strict=True):
            loss = loss_of(self.model, ids, labels)
            (loss * weight).backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        return losses


def train(
    training: Training, batches: Batches, tokenizer: PreTrainedTokenizerFast, held_out: list[str], minutes: float
) -> None:
    """Steps until the time is up; every 50 are reported, every 200 are measured and saved."""
    first, began, running = training.step, time.time(), []
    training.model.train()
    while (elapsed := training.spent + time.time() - began) < 60 * minutes:
        running.append(training.take_step(batches, elapsed / 60 / minutes))
        if training.step % 50 == 0:
            means = [sum(losses) / len(losses) for losses in zip(*running, strict=True)]
            shown = "  ".join(f"{name} {mean:.4f}" for name, mean in zip(SHAPES, means, strict=True))
            pace = (time.time() - began) / (training.step - first)
            print(f"step {training.step}  {shown}  {pace:.2f} s/step", flush=True)
            running = []
        if training.step % 200 == 0:
            print(json.dumps(evaluate(training.model, tokenizer, held_out[:8], 100)), flush=True)
            training.save(training.spent + time.time() - began)


def write_rounded(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, held_out: list[str], directory: Path
) -> dict[str, float]:
    """Write the model in bfloat16, and measure what was written."""
    final = Qwen3ForCausalLM(config_for(tokenizer))
    final.load_state_dict(model.state_dict())
    final.to(torch.bfloat16).save_pretrained(directory)
    rounded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return evaluate(rounded, tokenizer, held_out, 1000)


def main() -> None:
    """Train, or go on training, until the time is up; write the model and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=Path, required=True, help="training stories, separated by <|endoftext|>")
    parser.add_argument("--eval_stories", type=Path, required=True, help="held-out stories, for bits per byte")
    parser.add_argument("-o", "--output_dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75.0, help="time budget; the cosine schedule follows it")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="of Muon; AdamW runs at a third of it")
    parser.add_argument("--vocab_size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--init", type=Path, help="start from this checkpoint's weights and vocabulary")
    parser.add_argument("--compile", action="store_true", help="compile each decoder layer (needs a C++ compiler)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    stories, held_out = read_stories(args.stories), read_stories(args.eval_stories)
    tokenizer, model = start(args, stories)
    if args.compile:
        for layer in model.model.layers:
            layer.compile()
    training = Training(model, args.learning_rate, args.output_dir / "training.pt")
    train(training, Batches(tokenizer, stories, args.seed + training.step), tokenizer, held_out, args.minutes)
    figures = write_rounded(model, tokenizer, held_out, args.output_dir)
    record = {"steps": training.step, "minutes": args.minutes, "seed": args.seed, "held_out": figures}
    (args.output_dir / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
