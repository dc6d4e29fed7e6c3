"""What is trained: adapters (LoRA, DoRA, QLoRA) or whole layers, and how the result becomes a plain model again.

Assumptions: the student is unquantised and stays so; adapters are merged into its weights in float32, never into
4-bit ones; the output head is `get_output_embeddings()`. With all adapters disabled the model is the pruned model to
the bit, because no base weight is trained by an adapter method.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from prune.errors import PruneError, UsageError
from prune.healing.settings import HealSettings
from prune.model.anatomy import find_layer_list
from prune.model.silence import first_silent
from prune.surgery.names import FOREIGN

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PEFT_ROOT = "base_model.model."
"""What a PeftModel puts before the names of the model that it wraps."""
LEAST_ADAPTED = 3  # layers, where nothing or little is kept behind the first gap


def attach(
    student: PreTrainedModel,
    settings: HealSettings,
    kept_layers: Sequence[int] | None = None,
    *,
    shardable: bool = False,
) -> Any:
    """The model that Trainer trains: a PeftModel over the student (qlora: over its NF4 copy), or the student itself.

    Args:
        student: the pruned model.
        settings: method, layers, modules, rank.
        kept_layers: source index of each student layer; tells where the first gap is.
        shardable: qlora: keep the 4-bit weights in the student's own dtype, the only one that FSDP shards.

    Raises:
        UsageError: lora_target_modules matches nothing, or lora_layers or train_layers names a layer that the model
            does not have.
    """
    if settings.method == "full":
        _select_layers(student, settings.train_layers)
        return student
    if settings.method == "qlora":
        student = nf4_copy(student, storage=student.dtype if shardable else torch.uint8)
    return _with_adapters(student, settings, kept_layers)


def adapted_layers(
    choice: str | list[int], kept_layers: Sequence[int] | None, count: int, lacking: int | None = None
) -> list[int]:
    """Layers that get adapters, of a student with `count` layers; see `HealSettings.lora_layers`.

    Args:
        choice: of the settings.
        kept_layers: source index of each student layer.
        count: how many those are.
        lacking: the first layer without its attention or its MLP, if any.

    Raises:
        UsageError: the choice names a layer that is not there.
    """
    if isinstance(choice, list):
        _refuse_unknown("lora_layers", choice, count)
        return sorted(set(choice))
    if choice == "all" or kept_layers is None:
        return list(range(count))
    gap = next((i for i, source in enumerate(kept_layers) if source != i), count)
    gap = gap if lacking is None else min(gap, lacking)
    return list(range(max(0, min(gap - 1, count - LEAST_ADAPTED)), count))


def _refuse_unknown(field: str, wanted: Sequence[int], count: int) -> None:
    unknown = [i for i in wanted if not 0 <= i < count]
    if unknown:
        raise UsageError(f"{field}: the model has no layer {unknown[0]}; its layers are 0 to {count - 1}")


def _with_adapters(model: PreTrainedModel, settings: HealSettings, kept_layers: Sequence[int] | None) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    path, layers = find_layer_list(model)
    adapted = adapted_layers(settings.lora_layers, kept_layers, len(layers), first_silent(layers))
    # Towers beside the decoder see no text: adapters there would never get a gradient, which stops data-parallel runs.
    towers = rf".*({'|'.join(map(re.escape, FOREIGN))}).*"
    left = [towers] if any(re.fullmatch(towers, name) for name, _ in model.named_modules()) else []
    if bare := "|".join(str(i) for i in range(len(layers)) if i not in adapted):
        left.append(rf"(.*\.)?{re.escape(path)}\.({bare})\..*")
    left += [re.escape(name) for name in _zeroed(model)]
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft scales by any number
        lora_dropout=settings.lora_dropout,
        target_modules=settings.lora_target_modules,
        exclude_modules="|".join(left) or None,
        use_dora=settings.method == "dora",
        task_type=TaskType.CAUSAL_LM,
    )
    torch.manual_seed(settings.seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        reason = str(error).split("\n")[0]
        cure = "names of its linear modules, such as q_proj,o_proj"
        cure = cure if settings.lora_target_modules == "all-linear" else f"all-linear, or {cure}"
        raise UsageError(
            f"lora_target_modules {settings.lora_target_modules!r} does not fit this model ({reason}); use {cure}"
        ) from error


def _zeroed(model: nn.Module) -> list[str]:
    """Linear modules whose weights are all zero: sub-layers that were silenced so, which training must not wake."""
    named = ((name, getattr(module, "weight", None)) for name, module in model.named_modules())
    return [
        name
        for name, weight in named
        if weight is not None and not weight.is_meta and weight.dim() == 2 and not weight.any()
    ]


def _select_layers(student: PreTrainedModel, wanted: list[int] | None) -> None:
    layers = find_layer_list(student)[1]
    chosen = list(range(len(layers)))[-3:] if wanted is None else wanted
    _refuse_unknown("train_layers", chosen, len(layers))
    student.requires_grad_(False)
    for module in (*(layers[i] for i in chosen), student.get_output_embeddings()):
        module.requires_grad_(True)
    for parameter in trained_parameters(student).values():
        parameter.data = parameter.data.to(torch.float32, copy=True)  # its storage may be the teacher's


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A copy in main memory; of a parameter that FSDP or ZeRO 3 has sharded, all of it (every process must call)."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().to("cpu", copy=True)
    tensor: torch.Tensor = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter  # type: ignore[no-untyped-call]
    return tensor.detach().to("cpu", copy=True)


def merge(
    model: Any,
    student: PreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    settings: HealSettings,
    kept_layers: Sequence[int] | None = None,
) -> PreTrainedModel:
    """The student as a plain model in float32, trained.

    Args:
        model: what `attach` returned; where it does not wrap the student itself (qlora, FSDP), only `weights` count.
        student: the pruned model.
        weights: of `trained_parameters`, by name.
        settings: as for `attach`.
        kept_layers: as for `attach`.
    """
    student.requires_grad_(True)
    adapters = settings.method != "full"
    if adapters and model.get_base_model() is not student:
        model = _with_adapters(student, settings, kept_layers)
    target = model if adapters else student
    parameters = dict(target.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
    return target.float().merge_and_unload() if adapters else target.float()


def changed_parameters(model: Any, weights: Mapping[str, torch.Tensor], settings: HealSettings) -> frozenset[str]:
    """Names, in the merged model, of the parameters that trained weights change.

    An adapter whose second matrix is still zero adds nothing: it saw no gradient (a vision tower read as text only).

    Args:
        model: what `attach` returned.
        weights: of `trained_parameters`, by name.
        settings: as for `attach`.
    """
    from peft.tuners.lora import LoraLayer

    if settings.method == "full":
        return frozenset(weights)
    found = set()
    for path, module in model.named_modules():
        second = [weights.get(f"{path}.lora_{kind}") for kind in ("B.default.weight", "embedding_B.default")]
        if isinstance(module, LoraLayer) and any(weight is not None and bool(weight.any()) for weight in second):
            # Adapters of several parameters of one module (fused experts) wrap each other.
            plain = path.removeprefix(PEFT_ROOT).replace(".base_layer", "")
            found.add(f"{plain}.{getattr(module, 'parameter_name', 'weight')}")
    return frozenset(found)


def detach(model: Any, student: PreTrainedModel, settings: HealSettings) -> PreTrainedModel:
    """The student as it was before `attach`, but for the weights that full tuning changed."""
    student.requires_grad_(True)
    if settings.method != "full":
        model.unload()
    return student


def nf4_copy(student: PreTrainedModel, *, storage: torch.dtype = torch.uint8) -> PreTrainedModel:
    """A model whose linear layers (all but the head) hold the student's weights in bitsandbytes NF4.

    Every other tensor is shared with the student, not copied: memory grows by about 0.52 bytes per linear weight.

    Args:
        student: the pruned model.
        storage: dtype in which pairs of 4-bit numbers lie in memory, as bytes; their values do not depend on it.

    Raises:
        PruneError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise PruneError("method qlora needs bitsandbytes: pip install bitsandbytes, or use method lora") from error
    shared: dict[int, Any] = {id(t): t for t in (*student.parameters(), *student.buffers())}
    quantised = copy.deepcopy(student, shared)
    head = quantised.get_output_embeddings()
    device = next(student.parameters()).device
    for parent in list(quantised.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child is head:
                continue
            linear = Linear4bit(
                child.in_features,
                child.out_features,
                bias=child.bias is not None,
                compute_dtype=child.weight.dtype,
                quant_type="nf4",
                quant_storage=storage,
                device=torch.device("meta"),
            )
            # FSDP replaces the parameter by a plain one; the module keeps what is needed to read it.
            linear.weight = Params4bit(
                child.weight.data.clone(), requires_grad=False, quant_type="nf4", quant_storage=storage, module=linear
            ).to(device)
            linear.bias = child.bias
            # On CPUs with AVX-512 bf16 the first evaluation would repack the weights in place, for good, with scales
            # rounded to bf16, and fail where a row is no multiple of a block: training would go on with other weights.
            linear.support_avx512bf16_for_cpu = False
            setattr(parent, name, linear)
    quantised.is_loaded_in_4bit = True  # where peft looks before it puts an adapter over 4-bit weights
    return quantised
