/* SPDX-License-Identifier: Apache-2.0
 * A checkpoint that is nowhere: a model of published shapes with random bf16
 * weights, made when they are fetched.  It stands wherever a
 * checkpoint directory does, so that a trillion parameters can be planned and
 * the compressor be driven at true shapes without three terabytes of disk.
 *
 *   synth:NAME[?KEY=VALUE[&KEY=VALUE]...]
 *
 * NAME is one of switch_configs.h or decoder_configs.h.  Keys: seed (default
 * 0); experts; encoder_blocks and decoder_blocks, or blocks of a decoder-only
 * model: at most so many of the model's; tokenizer: a directory whose tokenizer
 * files are used.
 *
 * Weights are normal with the spread of a T5 initialisation, or such that
 * products keep the size of their inputs; norms are 1.
 * Element i of a tensor depends on seed, tensor name and i alone. */
#ifndef QMI_SYNTH_H
#define QMI_SYNTH_H

#include "checkpoint.h"
#include "decoder_configs.h"
#include "switch_configs.h"

/* What a specification says, with the model cut down as its keys ask. */
typedef struct qmi_synth {
    bool is_decoder; /* which of both counts */
    qmi_switch_config config;
    qmi_decoder_config decoder;
    uint64_t seed;
    char tokenizer[256]; /* a directory, or "" */
} qmi_synth;

bool qmi_is_synth(const char *directory);
/* E_INVALID: not a specification, with what is wrong and what is possible. */
qmoe_status qmi_synth_parse(
    qmi_synth *out, const char *specification, qmi_error *err);
/* Its config.json; delete with cJSON_Delete.  NULL when out of memory. */
cJSON *qmi_synth_config(const qmi_synth *synth);
/* All tensors in address space of their full size, of which nothing is in
 * memory until qmi_tensor_file_fetch.  Experts are views: they are made when a
 * backend first uses them, and leave memory with qmi_tensor_file_release; other
 * tensors stay.  E_NOMEM before the machine runs out of memory. */
qmoe_status qmi_synth_open(qmi_tensor_file **out, const qmi_synth *synth,
    const char *specification, qmi_error *err);

/* Opens a specification, or else the checkpoint in a directory. */
qmoe_status qmi_source_open(
    qmi_checkpoint **out, const char *source, qmi_error *err);

#endif
