# SPDX-License-Identifier: Apache-2.0
"""The oracle: Hugging Face's SwitchTransformers as qmoe has to reproduce it.

Shared by make_golden.py and hf_loss.py.  The settings are those of the QMoE
paper's code: float32 arithmetic on the stored weights, no router jitter, and
an expert capacity no sequence reaches unless a case asks for a small one.
"""

import dataclasses
import json

import numpy as np
import torch
import transformers
from transformers import SwitchTransformersForConditionalGeneration, T5Tokenizer
from transformers.models.switch_transformers import modeling_switch_transformers

# Later releases changed dropped tokens, jitter and capacity (see README.md).
ORACLE_RELEASE = "4.28."
NO_DROP_CAPACITY = 1024

START_ID = 0
END_ID = 1

NOISE_DENSITY = 0.15
MEAN_NOISE_SPAN = 3.0
MAX_DOCUMENT_TOKENS = 568
N_SENTINELS = 100

if not transformers.__version__.startswith(ORACLE_RELEASE):
    raise SystemExit(
        f"the oracle is transformers {ORACLE_RELEASE}x, not {transformers.__version__}"
    )

transformers.utils.logging.disable_progress_bar()


# ---- model ------------------------------------------------------------------


class Block(modeling_switch_transformers.SwitchTransformersBlock):
    """A block that is sparse also when the sparse step is 1.

    In 4.28 `i % step == 1` never holds for step 1, so a checkpoint that means
    "every block is sparse" would get dense blocks.
    """

    def __init__(self, config, has_relative_attention_bias=False, is_sparse=False):
        step = (
            config.decoder_sparse_step
            if config.is_decoder
            else config.encoder_sparse_step
        )
        super().__init__(config, has_relative_attention_bias, is_sparse or step == 1)


modeling_switch_transformers.SwitchTransformersBlock = Block


def load_oracle(directory):
    """Loads a checkpoint directory in float32 with the oracle's settings."""
    model, report = SwitchTransformersForConditionalGeneration.from_pretrained(
        directory,
        use_safetensors=True,
        router_jitter_noise=0.0,
        output_loading_info=True,
    )
    broken = {key: names for key, names in report.items() if names}
    if broken:
        raise SystemExit(f"{directory}: weights do not fit the model: {broken}")
    model = model.float().eval()
    set_expert_capacity(model, NO_DROP_CAPACITY)
    return model


def set_expert_capacity(model, capacity):
    router = modeling_switch_transformers.SwitchTransformersTop1Router
    for module in model.modules():
        if isinstance(module, router):
            module.expert_capacity = capacity


@dataclasses.dataclass
class Forward:
    """What one teacher-forced pass gave."""

    logits: np.ndarray  # [m, vocab] float32
    router_margin: float  # least gap between the two best experts of any token
    experts: list  # per sparse block, encoder first: the experts tokens chose
    n_dropped: list  # [encoder, decoder] tokens that skipped their expert


@torch.inference_mode()
def forward(model, encoder_ids, decoder_ids, capacity=NO_DROP_CAPACITY):
    set_expert_capacity(model, capacity)
    output = model(
        input_ids=torch.tensor([encoder_ids], dtype=torch.long),
        decoder_input_ids=torch.tensor([decoder_ids], dtype=torch.long),
        use_cache=False,
        output_router_logits=True,
    )
    set_expert_capacity(model, NO_DROP_CAPACITY)

    margins, experts, n_dropped = [], [], [0, 0]
    for stack, blocks in enumerate(
        (output.encoder_router_logits, output.decoder_router_logits)
    ):
        for block in blocks:
            if block[0] is None:  # a dense block
                continue
            probabilities = torch.softmax(block[0][0], dim=-1)
            best = probabilities.topk(2, dim=-1)
            margins.append((best.values[:, 0] - best.values[:, 1]).min().item())
            chosen = best.indices[:, 0].tolist()
            experts.append(chosen)
            n_dropped[stack] += sum(
                max(0, chosen.count(expert) - capacity) for expert in set(chosen)
            )
    return Forward(output.logits[0].numpy(), min(margins), experts, n_dropped)


@torch.inference_mode()
def generate(model, prompts, max_new_tokens):
    """Greedy continuations of prompts of any lengths, run as one batch.

    Returns id lists without the start token, with the end token if it came.
    """
    width = max(len(ids) for ids in prompts)
    input_ids = torch.zeros((len(prompts), width), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(prompts):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = 1
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_start_token_id=START_ID,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
    )
    results = []
    for row in output[:, 1:].tolist():
        end = row.index(END_ID) + 1 if END_ID in row else len(row)
        results.append(row[:end])
    return results


# ---- text -------------------------------------------------------------------


def load_tokenizer(directory):
    """The slow T5 tokenizer.

    It has to come from `from_pretrained`: a directly constructed T5Tokenizer
    of this release does not split sentinels off the text.
    """
    return T5Tokenizer.from_pretrained(
        directory, extra_ids=N_SENTINELS, model_max_length=10**9
    )


def read_documents(path):
    """Non-empty documents of a file: one per line, JSON lines with "text" too."""
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            text = line.rstrip("\r\n")
            if text.startswith("{"):
                text = json.loads(text)["text"]
            if text.strip():
                yield text


# ---- span corruption --------------------------------------------------------


def span_counts(n_tokens):
    """Noise tokens and noise spans of a document; halves round to even."""
    n_noise = int(np.round(n_tokens * NOISE_DENSITY))
    n_noise = min(max(n_noise, 1), n_tokens - 1)
    return n_noise, max(int(np.round(n_noise / MEAN_NOISE_SPAN)), 1)


def composition(rng, total, n_parts):
    """A random split of `total` into `n_parts` positive parts."""
    is_cut = np.arange(total - 1) < n_parts - 1
    rng.shuffle(is_cut)
    cuts = np.flatnonzero(is_cut) + 1
    return np.diff(np.concatenate(([0], cuts, [total]))).tolist()


def draw_spans(rng, n_tokens):
    """Lengths of the noise and the kept parts; the noise ones are drawn first."""
    n_noise, n_spans = span_counts(n_tokens)
    noise = composition(rng, n_noise, n_spans)
    kept = composition(rng, n_tokens - n_noise, n_spans)
    return noise, kept


def corrupt(rng, ids, sentinels):
    """Encoder and decoder ids of one document (`ids` with its end token)."""
    encoder, decoder = [], [START_ID]
    position = 0
    noise, kept = draw_spans(rng, len(ids))
    for n_kept, n_noise, sentinel in zip(kept, noise, sentinels):
        encoder += ids[position : position + n_kept]
        position += n_kept
        encoder.append(sentinel)
        decoder.append(sentinel)
        decoder += ids[position : position + n_noise]
        position += n_noise
    encoder.append(END_ID)
    decoder.append(sentinels[len(noise)])
    return encoder, decoder
