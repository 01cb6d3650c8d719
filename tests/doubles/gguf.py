"""A `.gguf` file of a few thousand parameters, written as llama.cpp's converter writes it."""

import gguf
from gguf import GGMLQuantizationType as Kind

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer

SPECIAL = ("<pad>", "<eos>", "<end>")


def write_tiny_gguf(file, kind=Kind.Q4_1):
    """Write a tiny Llama and a byte tokenizer; returns both as they were before the rounding."""
    tokenizer = byte_tokenizer(merges=[("a", "b")])
    model = tiny_llama(vocab_size=len(tokenizer), hidden=32)
    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, model.config, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleaved(values, model.config.num_attention_heads)
        if values.ndim == 2:
            writer.add_tensor(_renamed(names, name), gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_renamed(names, name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


def _describe(writer, config, tokenizer):
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _renamed(names, name):
    stem, kind = name.rsplit(".", 1)
    return f"{names.get_name(stem)}.{kind}"


def _interleaved(weight, heads):
    """Rows as llama.cpp's rotary embedding pairs them: neighbours, not halves of a head."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
