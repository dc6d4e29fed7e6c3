"""quantize_gguf.py IN OUT TYPE: matrices of a GGUF file in float, written in blocks; everything else as it is.

Runs in llama.cpp's environment with the `gguf` package that its converter uses. The converter itself writes eight bits
at the least.
"""

import sys

import gguf
from gguf.scripts.gguf_new_metadata import get_field_data

source, target, name = sys.argv[1:]
kind = gguf.GGMLQuantizationType[name.upper()]
block = gguf.GGML_QUANT_SIZES[kind][0]
reader = gguf.GGUFReader(source)
writer = gguf.GGUFWriter(
    target, arch=get_field_data(reader, gguf.Keys.General.ARCHITECTURE), endianess=reader.endianess
)
for field in reader.fields.values():
    if field.name == gguf.Keys.General.FILE_TYPE:
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{name.upper()}"])
    elif field.name != gguf.Keys.General.ARCHITECTURE and not field.name.startswith("GGUF."):
        kinds = field.types
        writer.add_key_value(field.name, field.contents(), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
written = []
for tensor in reader.tensors:
    floats = tensor.tensor_type in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    fits = floats and len(tensor.shape) == 2 and int(tensor.shape[0]) % block == 0  # the first is the row's length
    data, as_type = (gguf.quants.quantize(tensor.data, kind), kind) if fits else (tensor.data, tensor.tensor_type)
    writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, as_type)
    written.append(data)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_ti_data_to_file()
for data in written:
    writer.write_tensor_data(data)
writer.close()
