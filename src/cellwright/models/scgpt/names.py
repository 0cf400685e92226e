"""How published scGPT checkpoints spell the names of our tensors.

Four spellings of the attention keys exist in the wild, depending on which attention back end wrote them; any may
carry the ``module.`` prefix of an unwrapped distributed save. The tensors are the same under each.
"""

from __future__ import annotations

import re

ATTENTION_LAYOUTS = {  # layout name -> how it spells the fused projection and the output projection
    "flash": ("self_attn.Wqkv.", "self_attn.out_proj."),
    "flash_wrapped": ("self_attn._impl.Wqkv.", "self_attn._impl.out_proj."),
    "torch": ("self_attn.in_proj_", "self_attn.out_proj."),
}
PREFIX = "module."

_RENAMES = (  # ours -> published, first match wins
    (r"^gene_encoder\.embedding\.", "encoder.embedding."),
    (r"^gene_encoder\.norm\.", "encoder.enc_norm."),
    (r"^unknown_flag\.", "flag_encoder."),
    (r"^condition\.", "pert_encoder."),
    (r"^tech_batch\.embedding\.", "batch_encoder.embedding."),
    (r"^tech_batch\.norm\.", "batch_encoder.enc_norm."),
    (r"^modality\.embedding\.", "mod_encoder.embedding."),
    (r"^modality\.norm\.", "mod_encoder.enc_norm."),
    (r"^input_norm\.domains\.", "dsbn.bns."),
    (r"^input_norm\.norm\.", "bn."),
    (r"^value_head\.scale\.net\.", "decoder.coeff_decoder.fc."),
    (r"^value_head\.shift\.net\.", "decoder.bias_decoder.fc."),
    (r"^value_head\.scale\.gate\.", "decoder.coeff_decoder.zero_logit."),
    (r"^value_head\.shift\.gate\.", "decoder.bias_decoder.zero_logit."),
    (r"^value_head\.net\.", "decoder.fc."),
    (r"^value_head\.gate\.", "decoder.zero_logit."),
    (r"^cell_value_head\.query\.", "mvc_decoder.gene2query."),
    (r"^cell_value_head\.project\.", "mvc_decoder.W."),
    (r"^cell_value_head\.gate\.", "mvc_decoder.W_zero_logit."),
    (r"^cell_value_head\.linear([12])\.", r"mvc_decoder.fc\1."),
    (r"^cell_value_head\.activation\.", "mvc_decoder.hidden_activation."),
    (r"^blocks\.", "transformer_encoder.layers."),
)
HEADS = {"label": "cls_decoder.", "domain": "grad_reverse_discriminator."}


def published_key(key: str, layout: str, value_input: str) -> str:
    """Return the published name of one of our network's keys, spelled as ``layout`` does."""
    if value_input == "category" and key.startswith("value_encoder.norm."):
        return key.replace("value_encoder.norm.", "value_encoder.enc_norm.")
    for pattern, replacement in _RENAMES:
        renamed, is_match = re.subn(pattern, replacement, key)
        if is_match:
            key = renamed
            break
    qkv, out = ATTENTION_LAYOUTS[layout.removeprefix("distributed ")]
    key = key.replace("attention.qkv.", qkv).replace("attention.out.", out)
    return PREFIX + key if layout.startswith("distributed ") else key


def published_head_key(head: str, key: str, layout: str) -> str:
    """Return the published name of a head's key (``trunk`` is ``_decoder``, ``out`` is ``out_layer``)."""
    key = re.sub(r"^out\.", "out_layer.", re.sub(r"^trunk\.", "_decoder.", key))
    return (PREFIX if layout.startswith("distributed ") else "") + HEADS[head] + key


def read_layout(keys: list[str], where: str) -> str:
    """Return the name of the key layout, ``distributed `` in front when every key has that prefix."""
    is_distributed = all(key.startswith(PREFIX) for key in keys)
    bare = [key.removeprefix(PREFIX) for key in keys] if is_distributed else keys
    for name, (qkv, _) in ATTENTION_LAYOUTS.items():
        if any(f".{qkv}" in key for key in bare):
            return f"distributed {name}" if is_distributed else name
    raise ValueError(f"{where}: no attention weights under any known name; is this a scGPT checkpoint?")
