"""What is trained: adapters (LoRA, DoRA, QLoRA) or whole layers, and how the result becomes a plain model again.

Assumptions: the student is unquantised and stays so; adapters are merged into its weights in float32, never into
4-bit ones; the output head is `get_output_embeddings()`. With all adapters disabled the model is the pruned model to
the bit, because no base weight is trained by an adapter method.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prune.errors import PruneError, UsageError
from prune.healing.settings import HealSettings
from prune.model.anatomy import find_layer_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach(student: PreTrainedModel, settings: HealSettings) -> Any:
    """The model that Trainer trains: a PeftModel over the student (qlora: over its NF4 copy), or the student itself.

    Raises:
        UsageError: lora_target_modules matches nothing, or train_layers names a layer the model does not have.
    """
    if settings.method == "full":
        _select_layers(student, settings.train_layers)
        return student
    return _with_adapters(nf4_copy(student) if settings.method == "qlora" else student, settings)


def _with_adapters(model: PreTrainedModel, settings: HealSettings) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft scales by any number
        lora_dropout=settings.lora_dropout,
        target_modules=settings.lora_target_modules,
        use_dora=settings.method == "dora",
        task_type=TaskType.CAUSAL_LM,
    )
    torch.manual_seed(settings.seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        reason = str(error).split("\n")[0]
        raise UsageError(
            f"lora_target_modules {settings.lora_target_modules!r} does not fit this model ({reason}); "
            "use all-linear, or names of its linear modules"
        ) from error


def _select_layers(student: PreTrainedModel, wanted: list[int] | None) -> None:
    layers = find_layer_list(student)[1]
    chosen = list(range(len(layers)))[-3:] if wanted is None else wanted
    unknown = [i for i in chosen if not 0 <= i < len(layers)]
    if unknown:
        raise UsageError(f"train_layers: the model has no layer {unknown[0]}; its layers are 0 to {len(layers) - 1}")
    student.requires_grad_(False)
    for module in (*(layers[i] for i in chosen), student.get_output_embeddings()):
        module.requires_grad_(True)
    for parameter in trained_parameters(student).values():
        parameter.data = parameter.data.clone()  # its storage may be the teacher's


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def detach(model: Any, student: PreTrainedModel, settings: HealSettings, *, merge: bool) -> PreTrainedModel:
    """The student as a plain model, in float32 with the adapters merged, or (merge=False) as it was before."""
    student.requires_grad_(True)
    if settings.method == "full":
        return student.float() if merge else student
    if not merge:
        model.unload()
        return student
    if settings.method == "qlora":
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        adapters = get_peft_model_state_dict(model)
        model = _with_adapters(student, settings)
        set_peft_model_state_dict(model, adapters)
    return model.float().merge_and_unload()


def nf4_copy(student: PreTrainedModel) -> PreTrainedModel:
    """A model whose linear layers (all but the head) hold the student's weights in bitsandbytes NF4.

    Every other tensor is shared with the student, not copied: memory grows by about 0.52 bytes per linear weight.

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
                device=torch.device("meta"),
            )
            linear.weight = Params4bit(child.weight.data.clone(), requires_grad=False, quant_type="nf4").to(device)
            linear.bias = child.bias
            # On CPUs with AVX-512 bf16 the first evaluation would repack the weights in place, for good, with scales
            # rounded to bf16, and fail where a row is no multiple of a block: training would go on with other weights.
            linear.support_avx512bf16_for_cpu = False
            setattr(parent, name, linear)
    quantised.is_loaded_in_4bit = True  # where peft looks before it puts an adapter over 4-bit weights
    return quantised
