"""The architectures that are tried, each by its name in transformers and what its configuration needs to be tiny."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Settings = Mapping[str, Any]

VOCABULARY = 256
WINDOW = 77
"""Positions where a model has a table of them: no multiple of any width that batches are rounded to."""
SPECIAL: Settings = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
BLOCKS = 80
"""The same for models that fill texts up to whole blocks of 8 of their own, as real ones have it."""
WIDE: Settings = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": WINDOW,
    **SPECIAL,
}
FEW_KEYS: Settings = {**WIDE, "num_key_value_heads": 2}
HEADS: Settings = {**FEW_KEYS, "head_dim": 8}
FOUR: Settings = {**HEADS, "num_hidden_layers": 4}
MIXED: Settings = {"num_local_experts": 4, "num_experts_per_tok": 2}
EXPERTS: Settings = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED: Settings = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
MAMBA: Settings = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
GPT: Settings = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": WINDOW,
    **SPECIAL,
}
TWO_SIDED: Settings = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": WINDOW,
    "decoder_start_token_id": 2,
    **SPECIAL,
}
T5: Settings = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BEHIND_PADDING: Settings = {**WIDE, "pad_token_id": 1, "max_position_embeddings": WINDOW + 2}
"""RoBERTa and its like count positions from behind the number of their padding."""
SLIDING: Settings = {"sliding_window": 8}
VISION: Settings = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


def _each(names: Iterable[str], settings: Settings) -> dict[str, Settings]:
    return dict.fromkeys(names, settings)


def _turns(*kinds: str) -> list[str]:
    return list(kinds)


_SWA, _FULL, _LINEAR = "sliding_attention", "full_attention", "linear_attention"

DECODERS: dict[str, Settings] = {
    **_each(("llama", "olmo", "olmo2", "smollm3", "cohere", "stablelm", "starcoder2", "diffllama", "bitnet"), FEW_KEYS),
    **_each(("nanochat", "apertus", "persimmon", "biogpt", "gpt_neox", "gpt_neox_japanese"), WIDE),
    **_each(("gemma", "qwen2", "qwen3", "glm", "glm4", "helium", "nemotron", "arcee", "ernie4_5", "seed_oss"), HEADS),
    **_each(("mistral", "ministral", "gemma2", "exaone4", "cohere2", "olmo3", "vaultgemma"), {**HEADS, **SLIDING}),
    "doge": {**FEW_KEYS, "num_experts": 4},
    "falcon": {**WIDE, "alibi": False},
    "falcon with ALiBi": {**WIDE, "alibi": True},
    "phi": WIDE,
    "phi3": {**FEW_KEYS, "sliding_window": 16},
    "gemma3_text": {**HEADS, **SLIDING, "layer_types": _turns(_SWA, _FULL, _SWA)},
    "gemma3n_text": {
        **FOUR,
        **SLIDING,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 2,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "layer_types": _turns(_SWA, _FULL) * 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "modernbert-decoder": {**WIDE, "local_attention": 8, "global_attn_every_n_layers": 2},
    "granite": {**FEW_KEYS, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    **_each(("gpt2", "openai-gpt", "gpt_bigcode"), GPT),
    "gptj": {**GPT, "rotary_dim": 4},
    "codegen": {**GPT, "rotary_dim": 4},
    "ctrl": {**GPT, "dff": 64},
    "gpt_neo": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 8,
        "max_position_embeddings": WINDOW,
        **SPECIAL,
    },
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4, **SPECIAL},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": WINDOW},
    "opt": {**WIDE, "word_embed_proj_dim": 32, "ffn_dim": 64, "pad_token_id": 1},
    "xglm": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "num_layers": 3,
        "attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": WINDOW,
        "pad_token_id": 1,
    },
    "bert-generation": WIDE,
    "cpmant": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "dim_head": 8,
        "dim_ff": 64,
        "num_hidden_layers": 3,
        "prompt_types": 2,
        "prompt_length": 4,
        "segment_types": 4,
    },
}

EXPERT_DECODERS: dict[str, Settings] = {
    "mixtral": {**FEW_KEYS, **MIXED},
    "granitemoe": {**FEW_KEYS, **MIXED},
    "phimoe": {**FEW_KEYS, **MIXED},
    "gpt_oss": {**HEADS, **MIXED, **SLIDING},
    "olmoe": {**FEW_KEYS, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**FEW_KEYS, **EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**HEADS, **EXPERTS},
    "ernie4_5_moe": {
        **FEW_KEYS,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 32,
        "moe_num_shared_experts": 1,
    },
    "glm4_moe": {**HEADS, **ROUTED},
    "dots1": {**HEADS, **ROUTED},
    "deepseek_v2": {
        **WIDE,
        **ROUTED,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "deepseek_v3": {
        **WIDE,
        **ROUTED,
        "n_group": 2,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "jetmoe": {**WIDE, **MIXED, "num_key_value_heads": 2, "kv_channels": 8},
    "llama4_text": {
        **HEADS,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 64,
        "attention_chunk_size": 8,
    },
    "minimax": {
        **HEADS,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "block_size": 8,
        "layer_types": _turns(_LINEAR, _FULL, _LINEAR),
    },
}

STATE_SPACES: dict[str, Settings] = {
    **_each(
        ("mamba", "falcon_mamba"),
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "pad_token_id": 0},
    ),
    "mamba2": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 8,
        "pad_token_id": 0,
    },
    "rwkv": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "attention_hidden_size": 32,
        "context_length": WINDOW,
    },
    "xlstm": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 4, "pad_token_id": 0},
    "recurrent_gemma": {
        **FEW_KEYS,
        "lru_width": 32,
        "attention_window_size": 8,
        "block_types": _turns("recurrent", "attention"),
    },
    "lfm2": {**FEW_KEYS, "layer_types": _turns("conv", _FULL, "conv"), "block_multiple_of": 8},
    "jamba": {
        **FEW_KEYS,
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "bamba": {**FEW_KEYS, **MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**HEADS, **MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 32},
    "granitemoehybrid": {
        **FEW_KEYS,
        **MIXED,
        **MAMBA,
        "layer_types": _turns("mamba", "attention", "mamba"),
        "shared_intermediate_size": 32,
    },
    "qwen3_next": {
        **FOUR,
        **EXPERTS,
        "shared_expert_intermediate_size": 32,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
    "zamba": {
        **FEW_KEYS,
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
        "use_mamba_kernels": False,
    },
}

DISENTANGLED: Settings = {**WIDE, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

ENCODERS: dict[str, Settings] = {
    **_each(("bert", "mobilebert", "rembert", "roformer", "convbert", "megatron-bert", "ernie", "layoutlm"), WIDE),
    **_each(("mra", "yoso", "fnet", "splinter", "eurobert", "nomic_bert", "dpr"), WIDE),
    **_each(("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl", "mpnet"), BEHIND_PADDING),
    **_each(("data2vec-text", "ibert"), BEHIND_PADDING),
    "xmod": {**BEHIND_PADDING, "languages": ["en_XX"], "default_language": "en_XX"},
    "esm": {**BEHIND_PADDING, "mask_token_id": 4, "position_embedding_type": "absolute"},
    "esm with rotary positions": {**WIDE, "mask_token_id": 4, "position_embedding_type": "rotary"},
    "luke": {**BEHIND_PADDING, "entity_vocab_size": 16, "entity_emb_size": 16},
    "markuplm": {**BEHIND_PADDING, "xpath_unit_hidden_size": 4, "max_depth": 4},
    "lilt": {**BEHIND_PADDING, "hidden_size": 48, "channel_shrink_ratio": 4},
    "longformer": {**BEHIND_PADDING, "attention_window": [8, 8, 8]},
    "big_bird": {
        **WIDE,
        "max_position_embeddings": BLOCKS,
        "attention_type": "block_sparse",
        "block_size": 8,
        "num_random_blocks": 1,
    },
    "nystromformer": {**WIDE, "num_landmarks": 8, "segment_means_seq_len": 8},
    "modernbert": {**WIDE, "local_attention": 8, "global_attn_every_n_layers": 2},
    "squeezebert": {**WIDE, "embedding_size": 32},
    "electra": {**WIDE, "embedding_size": 16},
    "albert": {**WIDE, "embedding_size": 16},
    "albert with groups": {**WIDE, "embedding_size": 16, "num_hidden_groups": 3, "inner_group_num": 1},
    "deberta": DISENTANGLED,
    "deberta-v2": {**DISENTANGLED, "position_biased_input": False},
    "deberta-v2 with a convolution": {**DISENTANGLED, "conv_kernel_size": 3, "conv_act": "gelu"},
    "roc_bert": {**WIDE, "pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": WINDOW,
    },
    **_each(
        ("flaubert", "xlm"),
        {
            "vocab_size": VOCABULARY,
            "emb_dim": 32,
            "n_layers": 3,
            "n_heads": 4,
            "max_position_embeddings": WINDOW,
            "pad_index": 0,
        },
    ),
    "xlnet": {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64, "pad_token_id": 0},
    "funnel": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "n_head": 4,
        "d_head": 8,
        "d_inner": 64,
        "block_sizes": [1, 1],
        "architectures": ["FunnelModel"],
    },
    "canine": WIDE,
    "reformer": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "attention_head_size": 8,
        "feed_forward_size": 64,
        "attn_layers": ["local", "local"],
        "axial_pos_embds": False,
        "max_position_embeddings": BLOCKS,
        "local_attn_chunk_length": 8,
        "is_decoder": True,
    },
    "clip_text_model": WIDE,
}

ENCODER_DECODERS: dict[str, Settings] = {
    **_each(("bart", "mbart", "plbart", "pegasus", "blenderbot", "blenderbot-small", "m2m_100", "marian"), TWO_SIDED),
    "mvp": TWO_SIDED,
    "led": {
        **{name: value for name, value in TWO_SIDED.items() if name != "max_position_embeddings"},
        "max_encoder_position_embeddings": BLOCKS,
        "max_decoder_position_embeddings": BLOCKS,
        "attention_window": 8,
    },
    "prophetnet": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_encoder_layers": 3,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": WINDOW,
    },
    **_each(("t5", "mt5", "umt5"), T5),
    "longt5": {**T5, "local_radius": 7, "encoder_attention_type": "local"},
    "switch_transformers": {**T5, "num_layers": 4, "num_experts": 2, "router_jitter_noise": 0.0},
    "t5gemma": {"encoder": {**HEADS, **SLIDING}, "decoder": {**HEADS, **SLIDING}},
}

WITH_IMAGES: dict[str, Settings] = {
    "gemma3": {
        "text_config": {**HEADS, **SLIDING},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 250,
    },
    "paligemma": {
        "text_config": {**HEADS, "model_type": "gemma"},
        "vision_config": {**VISION, "model_type": "siglip_vision_model"},
        "image_token_index": 250,
        "projection_dim": 32,
    },
    "llava": {
        "text_config": {**FEW_KEYS, "model_type": "llama"},
        "vision_config": {**VISION, "model_type": "clip_vision_model"},
        "image_token_index": 250,
    },
    "siglip": {"text_config": WIDE, "vision_config": VISION},
    "clip": {"text_config": WIDE, "vision_config": VISION, "projection_dim": 32},
    "vit": VISION,
    "whisper": {
        **TWO_SIDED,
        "num_mel_bins": 16,
        "max_source_positions": 32,
        "max_target_positions": 64,
    },
}

PARTS: dict[str, tuple[str, Settings]] = {
    "T5EncoderModel": ("t5", T5),
    "MT5EncoderModel": ("mt5", T5),
    "UMT5EncoderModel": ("umt5", T5),
    "LongT5EncoderModel": ("longt5", {**T5, "local_radius": 7, "encoder_attention_type": "local"}),
    "DPRContextEncoder": ("dpr", WIDE),
    "T5GemmaEncoderModel": (
        "t5gemma",
        {"encoder": HEADS, "decoder": HEADS, "is_encoder_decoder": False},
    ),
}
"""Parts of an architecture that were saved alone, by the class that they were saved from."""

KINDS: dict[str, dict[str, Settings]] = {
    "decoders": DECODERS,
    "mixtures of experts": EXPERT_DECODERS,
    "state spaces and hybrids": STATE_SPACES,
    "encoders": ENCODERS,
    "encoders of encoder-decoders": ENCODER_DECODERS,
    "with images or sound": WITH_IMAGES,
}
