"""From a sentence to the transformer's context: tokenizer, small Gemma 3, feature projections, connectors.

The pipelines always give 1024 context tokens, most of them learned registers. Training draws a few of the registers and
adds log(how many each stands for) to their attention scores: the same expectation at a quarter of the work.
`context(..., registers=None)` is the exact form.
"""

from __future__ import annotations

import json

import torch
from ltx_core.model.transformer.rope import LTXRopeType, generate_freq_grid_np, precompute_freqs_cis
from ltx_core.utils import rms_norm
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from . import configs, prompts
from .reference import build, build_feature_extractor, build_gemma, use_plain_attention

SPECIAL = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)  # ids 0, 1, 2, ... as in Gemma 3
NEVER = -30000.0  # a score that no bfloat16 softmax sees


def build_tokenizer() -> Tokenizer:
    """Byte-pair pieces over lower-case words; every word of the world is one piece, any other text several."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-")
    trainer = trainers.BpeTrainer(
        vocab_size=configs.GEMMA_TEXT["vocab_size"],
        special_tokens=list(SPECIAL),
        initial_alphabet=letters,
        show_progress=False,
    )
    corpus = [" ".join(prompts.world_words())] * 200 + [" ".join(prompts.OTHER)] * 5
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    whole = [word for word in prompts.world_words() if len(tokenizer.encode(word).ids) != 2]
    if whole:
        raise ValueError(f"these words of the world are not single tokens: {whole}")
    return tokenizer


def tokenize(tokenizer: Tokenizer, sentences) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask, (B, N). The pipelines pad left; positions are relative, so nothing changes."""
    ids = [tokenizer.encode(s.strip()).ids for s in sentences]
    longest = max(map(len, ids))
    padded = torch.tensor([i + [0] * (longest - len(i)) for i in ids])
    mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids])
    return padded, mask


class TextEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gemma = build_gemma()
        self.features = build_feature_extractor()
        self.video_connector, self.audio_connector = build("video_connector"), build("audio_connector")
        use_plain_attention(self.video_connector)
        use_plain_attention(self.audio_connector)
        place = torch.arange(configs.CONTEXT_TOKENS, dtype=torch.float32)[None, None]
        self.rope = [
            precompute_freqs_cis(
                place,
                dim=c.inner_dim,
                out_dtype=torch.float32,
                theta=c.positional_embedding_theta,
                max_pos=c.positional_embedding_max_pos,
                num_attention_heads=c.num_attention_heads,
                rope_type=LTXRopeType.SPLIT,
                freq_grid_generator=generate_freq_grid_np,
            )
            for c in (self.video_connector, self.audio_connector)
        ]

    def context(self, ids: torch.Tensor, mask: torch.Tensor, registers: int | None, share: float = 1.0):
        """Video context, audio context (B, N + registers, width) and the bias (B, 1, 1, N + registers) of all three
        attentions over them; with registers=None both contexts have 1024 tokens and the bias is zero. `share` of less
        than 1 makes the drawn registers count less than they should (early in training)."""
        batch, n = ids.shape
        total, dtype = configs.CONTEXT_TOKENS, self.features.video_aggregate_embed.weight.dtype
        states = self.gemma(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        features = self.features(states, mask, "right")
        length = mask.sum(1)
        if registers is None:
            place = torch.arange(total)[None].expand(batch, -1)
            free = place >= length[:, None]
            bias = torch.zeros(batch, total)
            extra = total - n
        else:
            drawn = length[:, None] + (torch.rand(batch, registers) * (total - length[:, None])).long()
            place = torch.cat([torch.arange(n)[None].expand(batch, -1), drawn.clamp(max=total - 1)], 1)
            free = torch.cat(
                [torch.zeros(batch, n, dtype=torch.bool), torch.ones(batch, registers, dtype=torch.bool)], 1
            )
            weight = share * torch.log((total - length).float() / registers)[:, None].expand(-1, registers)
            bias = torch.cat([torch.where(mask.bool(), 0.0, NEVER), weight], 1)
            extra = registers
        bias = bias[:, None, None].to(dtype)
        contexts = []
        for connector, feature, (cos, sin) in zip((self.video_connector, self.audio_connector), features, self.rope):
            feature = torch.nn.functional.pad(feature, (0, 0, 0, extra)).to(dtype)
            register = connector.learnable_registers[place % configs.REGISTERS].to(dtype)
            hidden = torch.where(free[..., None], register, feature)
            turn = (cos[0][:, place].transpose(0, 1).to(dtype), sin[0][:, place].transpose(0, 1).to(dtype))
            for block in connector.transformer_1d_blocks:
                hidden = block(hidden, attention_mask=bias, pe=turn)
            contexts.append(rms_norm(hidden))
        return contexts[0], contexts[1], bias


def tokenizer_from(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


def dump(tokenizer: Tokenizer) -> str:
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=None)
