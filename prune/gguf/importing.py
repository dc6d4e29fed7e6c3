"""`prune import`: a GGUF file becomes a stock transformers checkpoint, proved against transformers' own reading of it.

transformers dequantises the weights; what it then refuses to save, because the model still calls itself quantised, is
mended here, and what was saved is loaded again with the stock loader: nothing missing, every tensor and the logits
equal to the bit, tokenizer and template alike. Assumption: the header was checked before transformers sees the file.
One model is in memory at a time; of the other only hashes are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import PruneError, UsageError
from prune.files import follow_umask, refuse_non_empty, sha256_file, staged_directory, write_json
from prune.gguf.architectures import BY_DEPTH, RECURRENT_KEY, WINDOW_IF_STATED, WINDOW_KEY, WINDOWS
from prune.gguf.cut import join_parts
from prune.gguf.header import Array, Header, read_header
from prune.gguf.parts import Model, read_model
from prune.gguf.plausible import check_plausible
from prune.gguf.readable import LONG_CONTEXT, check_package, check_readable, unread_keys, unread_tensors
from prune.surgery.writer import parse_size
from prune.versions import library_versions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RECORD = "prune_import.json"
ALONE = ".source"
"""Holds the file, or the parts joined, for as long as transformers reads it, which would read its neighbours too."""
FORMAT = 1
DTYPES = ("float32", "bfloat16", "float16")


KINDS = {WINDOW_KEY: "sliding_attention", RECURRENT_KEY: "linear_attention"}
"""Arrays of a file -> what transformers calls the layers that they mark."""


SIZES = {
    "attention.key_length": "head_dim",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
"""Keys -> fields of a config that transformers 5.23 fills for some architectures only."""
TWO_HEAD_SIZES = ("gemma4",)


@dataclass
class ImportResult:
    """What an import did, or would do.

    Attributes:
        source: name of the file.
        output: target directory.
        architecture: as the file says.
        num_layers: depth.
        quantization: tensor type -> number of tensors in the file.
        dtype: of the weights written.
        not_read: keys and tensors of the file that transformers has no place for.
        files: names in the output directory.
        verified: whether the proof ran and held.
    """

    source: str
    output: str
    architecture: str
    num_layers: int
    quantization: dict[str, int]
    dtype: str
    not_read: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    verified: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def import_file(
    file: str | Path,
    output: str | Path,
    *,
    dtype: str = "bfloat16",
    max_shard_size: str = "5GB",
    dry_run: bool = False,
) -> ImportResult:
    """Write the transformers checkpoint that a GGUF file holds.

    Args:
        file: of a model, quantised or not; of a split model, the first part.
        output: directory to create.
        dtype: of the weights written: `float32`, `bfloat16` or `float16`.
        max_shard_size: largest weight file, such as `5GB`.
        dry_run: check the file and say what would be done, write nothing.

    Raises:
        UsageError: no such file, target not empty, unknown dtype, or the `gguf` package is missing.
        PruneError: a damaged file, an architecture, tensor type or tensor that transformers does not read, or a result
            that is not what was read.
    """
    path, target, limit = Path(file), Path(output), parse_size(max_shard_size)
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    model = read_model(path)
    refuse_non_empty(target)
    header = model.first
    check_package()
    check_readable(model)
    check_plausible(header, path.name)
    result = ImportResult(
        source=path.name,
        output=str(target),
        architecture=str(header.get("general.architecture")),
        num_layers=_depth(model),
        quantization=dict(Counter(tensor.type_name for _, tensor in model.tensors).most_common()),
        dtype=dtype,
        not_read=unread_keys(header),
    )
    if dry_run:
        return result
    try:
        with staged_directory(target) as staging:
            _fill(staging, model, result, limit)
    except OSError as error:
        raise PruneError(f"{target}: cannot be written: {error.strerror or error}") from error
    return result


def _fill(staging: Path, model: Model, result: ImportResult, limit: int) -> None:
    header = _alone(model, staging / ALONE)
    _write(header, staging, result, limit)
    shutil.rmtree(staging / ALONE)
    hashes = {part.path.name: sha256_file(part.path) for part in model.parts}
    record = {"format": FORMAT, **result.as_dict(), "sha256": hashes, "versions": library_versions()}
    write_json(staging / RECORD, {key: value for key, value in record.items() if key not in ("output", "files")})
    follow_umask(*staging.iterdir())
    result.files = sorted(found.name for found in staging.iterdir())


def _alone(model: Model, place: Path) -> Header:
    """The file in a directory of its own, as a link; a split model as one file."""
    place.mkdir()
    file = place / "model.gguf"
    if len(model.parts) > 1:
        join_parts(model, file)
        return read_header(file)
    file.symlink_to(model.path.resolve())
    return replace(model.first, path=file)


def _depth(model: Model) -> int:
    name = f"{model.architecture}.block_count"
    depth = model.first.get(name)
    if type(depth) is not int or not 0 < depth <= len(model.tensors):
        raise PruneError(f"{model.path}: {name} is {str(depth)[:40]}; a model has at least one layer and its tensors")
    return depth


def _write(header: Header, staging: Path, result: ImportResult, limit: int) -> None:
    """Read, save in files of at most `limit` bytes, and prove what was saved."""
    import torch
    from safetensors import SafetensorError

    from prune.gguf.tokenizers import save_tokenizer

    model = _read(header, result)
    unread = unread_tensors(header, model)
    if lost := [name for name in unread if name not in LONG_CONTEXT]:
        raise PruneError(f"{result.source}: {model.config.model_type} in transformers has no place for {lost[0]!r}")
    result.not_read = sorted([*result.not_read, *unread])
    ids = _probe(model)
    expected, logits = _hashes(model, result.source), _logits(model, ids)
    if not bool(torch.isfinite(logits).all()):
        raise PruneError(f"{result.source}: its model gives logits that are not finite: damaged weights or numbers")
    _mark_unquantized(model)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            model.save_pretrained(staging, max_shard_size=limit)
    except SafetensorError as error:  # of a full disk, too
        raise OSError(f"weights: {error}") from error
    del model
    _clean_config(staging / "config.json", header)
    save_tokenizer(header.path, staging, result.source)
    _prove(staging, result.source, expected, ids, logits)
    result.verified = True


def _read(header: Header, result: ImportResult) -> PreTrainedModel:
    """transformers' own reading, in which nothing may be missing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    place = {"pretrained_model_name_or_path": str(header.path.parent), "gguf_file": header.path.name}
    try:
        config = AutoConfig.from_pretrained(**place, local_files_only=True)
        _state_more(config, header, result.source)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            model, info = AutoModelForCausalLM.from_pretrained(
                **place,
                config=config,
                dtype=getattr(torch, result.dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told of below, by name
                local_files_only=True,
            )
    except PruneError:
        raise
    except Exception as error:  # of many kinds, all from the file's content
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PruneError(f"{result.source}: transformers cannot read it: {type(error).__name__}: {reason}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if names := sorted(map(_named, info.get(problem) or ())):
            raise PruneError(f"{result.source}: {problem.replace('_', ' ')}: {', '.join(names[:3])}")
    return model.eval()


def _named(problem: Any) -> str:
    """A tensor's name; of one of another shape, both."""
    if not isinstance(problem, tuple):
        return str(problem)
    name, found, wanted = problem
    return f"{name} ({list(found)} in the file, {list(wanted)} by its metadata)"


def _state_more(config: Any, header: Header, source: str) -> None:
    """What the file says and transformers leaves at a default: sizes, layers that slide or recur, Gemma's scale."""
    name = str(header.get("general.architecture"))
    for key, attribute in SIZES.items():
        value = header.get(f"{name}.{key}")
        if type(value) is int and attribute in config.to_dict() and name not in TWO_HEAD_SIZES:
            setattr(config, attribute, value)
    if name in BY_DEPTH and hasattr(config, "query_pre_attn_scalar"):
        by_depth = BY_DEPTH[name][0] == config.num_hidden_layers
        scale = config.hidden_size // config.num_attention_heads if by_depth else config.head_dim
        config.query_pre_attn_scalar = scale
    types = getattr(config, "layer_types", None)
    if types and (period := _period(header)) is not None:
        slides = [period == 0 or index % period < period - 1 for index in range(len(types))]
        config.layer_types = ["sliding_attention" if slide else "full_attention" for slide in slides]
    for key, kind in KINDS.items():
        found = header.get(f"{name}.{key}")
        if not isinstance(found, Array) or found.values is None or not types:
            continue
        if found.count != len(types):
            raise PruneError(f"{source}: {key} has {found.count} entries for {len(types)} layers")
        config.layer_types = [kind if value else "full_attention" for value in found.values]


def _period(header: Header) -> int | None:
    """The period of sliding layers, where llama.cpp has another than transformers: 1 for none, 0 for all."""
    name = str(header.get("general.architecture"))
    if name in WINDOW_IF_STATED and not header.get(f"{name}.attention.sliding_window"):
        return 1
    stated = header.get(f"{name}.{WINDOW_KEY}")
    return stated if name in WINDOWS and type(stated) is int else None


def _clean_config(path: Path, header: Header) -> None:
    """Leave out what is not of the model: a name, and a period that the file's own layers do not follow."""
    config = json.loads(path.read_text(encoding="utf8"))
    config.pop("_model_name_or_path", None)
    if header.get(f"{header.get('general.architecture')}.{WINDOW_KEY}") is not None or _period(header) is not None:
        config.pop("_sliding_window_pattern", None)
    write_json(path, config)


def _mark_unquantized(model: PreTrainedModel) -> None:
    """Take away by what transformers would refuse to save a model that it has just dequantised."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("quantization_method", "is_quantized", "hf_quantizer"):
        model.__dict__.pop(name, None)


def _probe(model: PreTrainedModel) -> torch.Tensor:
    """[2, 24] token ids, the same for every model of one vocabulary."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.config.get_text_config().vocab_size, (2, 24), generator=generator)


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """[2, 24, V], of the model's own dtype."""
    import torch

    with torch.inference_mode():
        return model(ids, use_cache=False).logits


def _hashes(model: PreTrainedModel, source: str) -> dict[str, str]:
    """SHA-256 of every tensor's dtype, shape and bytes; messages call the file `source`.

    Raises:
        PruneError: a tensor holds NaN or infinite values.
    """
    import torch

    found = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise PruneError(f"{source}: tensor {name!r} holds NaN or infinite values in {dtype}; try another --dtype")
        digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        found[name] = digest.hexdigest()
    return found


def _prove(directory: Path, source: str, expected: dict[str, str], ids: torch.Tensor, logits: torch.Tensor) -> None:
    """Load what was saved; it must be what was read.

    Raises:
        PruneError: tensors or logits differ.
    """
    import torch

    from prune.surgery.proof import reload

    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        model = reload(directory).eval()
    found = _hashes(model, source)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        raise PruneError(f"{source}: tensor {different[0]!r} was not saved as it was read; nothing was written")
    if not torch.equal(_logits(model, ids), logits):
        raise PruneError(f"{source}: the saved checkpoint has other logits; nothing was written")
