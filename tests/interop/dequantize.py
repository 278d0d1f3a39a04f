#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the expert matrices of a compressed model as plain float32.

The names are those of the uncompressed checkpoint, so that the file can be
loaded into Hugging Face (tests/golden/hf_loss.py --dequantized FILE).
"""

import argparse

import safetensors.numpy

import compressed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="compressed directory")
    parser.add_argument("out", metavar="OUT.safetensors")
    arguments = parser.parse_args()
    matrices = {
        compressed.expert_name(stack, mat): stack.matrix(mat)
        for stack in compressed.stacks(arguments.model)
        for mat in range(stack.n_mats)
    }
    safetensors.numpy.save_file(matrices, arguments.out)
    print(f"{arguments.out}: {len(matrices)} matrices")


if __name__ == "__main__":
    main()
