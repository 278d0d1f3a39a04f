#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Span-corruption loss of a checkpoint, computed by Hugging Face.

The reference for `qmoe eval`: documents in file order, masks from NumPy's
legacy generator seeded once, one sample at a time.  Prints two means of the
cross entropy: over samples weighted by decoder length (the QMoE paper's
formula) and over predicted tokens.
"""

import argparse
import json
import math
import sys

import numpy as np
import torch
from safetensors.torch import load_file

import oracle


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", metavar="MODEL_DIR", help="Hugging Face checkpoint")
    parser.add_argument("--text", required=True, help="documents, one per line")
    parser.add_argument("--seed", type=int, default=0, help="of the masks (default 0)")
    parser.add_argument("--samples", type=int, help="stop after N samples")
    parser.add_argument(
        "--dequantized",
        metavar="FILE",
        help="safetensors file whose expert matrices, named as in the checkpoint, "
        "replace the model's",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def replace_experts(model, path):
    """Overwrites expert matrices with those of `path`; returns their number."""
    parameters = dict(model.named_parameters())
    tensors = load_file(path)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if ".mlp.experts." not in name or name not in parameters:
                raise SystemExit(f"{path}: {name}: no expert matrix of the model")
            if tensor.shape != parameters[name].shape:
                raise SystemExit(f"{path}: {name}: shape {list(tensor.shape)}")
            parameters[name].copy_(tensor)
    return len(tensors)


def samples(tokenizer, path, seed, limit, skipped):
    """Yields (encoder ids, decoder ids); appends skipped documents' lengths."""
    rng = np.random.RandomState(seed)
    sentinels = [
        tokenizer.convert_tokens_to_ids(f"<extra_id_{k}>")
        for k in range(oracle.N_SENTINELS)
    ]
    n_samples = 0
    for text in oracle.read_documents(path):
        if n_samples == limit:
            return
        ids = tokenizer(text).input_ids
        if not 2 <= len(ids) <= oracle.MAX_DOCUMENT_TOKENS:
            skipped.append(len(ids))
            continue
        yield oracle.corrupt(rng, ids, sentinels)
        n_samples += 1


@torch.inference_mode()
def cross_entropy(model, encoder_ids, decoder_ids):
    """Cross entropies of decoder_ids[1:], each given what precedes it."""
    logits = model(
        input_ids=torch.tensor([encoder_ids]),
        decoder_input_ids=torch.tensor([decoder_ids]),
        use_cache=False,
    ).logits[0]
    return torch.nn.functional.cross_entropy(
        logits[:-1].double(), torch.tensor(decoder_ids[1:]), reduction="none"
    ).numpy()


def main():
    arguments = parse_arguments()
    model = oracle.load_oracle(arguments.model)
    tokenizer = oracle.load_tokenizer(arguments.model)
    n_replaced = 0
    if arguments.dequantized:
        n_replaced = replace_experts(model, arguments.dequantized)

    weighted_loss, weight, token_loss = [], [], []
    skipped = []
    for encoder_ids, decoder_ids in samples(
        tokenizer, arguments.text, arguments.seed, arguments.samples, skipped
    ):
        losses = cross_entropy(model, encoder_ids, decoder_ids)
        weighted_loss.append(len(decoder_ids) * math.fsum(losses) / len(losses))
        weight.append(len(decoder_ids))
        token_loss.extend(losses.tolist())
    if not weight:
        raise SystemExit(f"{arguments.text}: no document of a usable length")

    result = {
        "loss": math.fsum(weighted_loss) / sum(weight),
        "token_loss": math.fsum(token_loss) / len(token_loss),
        "n_samples": len(weight),
        "n_tokens": len(token_loss),
        "n_skipped": len(skipped),
        "n_replaced": n_replaced,
    }
    if arguments.json:
        json.dump(result, sys.stdout)
        print()
    else:
        print(f"loss        {result['loss']:.6f}  (samples weighted by decoder length)")
        print(f"token loss  {result['token_loss']:.6f}")
        print(
            f"{result['n_samples']} samples, {result['n_tokens']} predicted tokens, "
            f"{result['n_skipped']} documents skipped, "
            f"{n_replaced} expert matrices replaced"
        )


if __name__ == "__main__":
    main()
