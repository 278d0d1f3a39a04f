/* SPDX-License-Identifier: Apache-2.0
 * What the steps of a part of a program read, as the backward pass will need it.
 * Slots are written to more than once, so a value is named by its slot and the
 * step that reads it.  Kept on the host while a chunk runs; only what some step
 * needs is kept. */
#ifndef QMI_TAPE_H
#define QMI_TAPE_H

#include "probe.h"

/* What a step wrote to a slot. */
typedef struct qmi_tape_entry {
    int64_t step; /* of the program; that before the first: it was there */
    qmi_slot slot;
    void *values; /* f32 or i32 [n_tokens, width of the slot] */
} qmi_tape_entry;

typedef struct qmi_tape {
    const qmi_graph *graph;
    const qmi_steps *steps;
    qmi_probe probe; /* attached by the owner while the part runs */
    qmi_tape_entry *entries;
    size_t n, capacity;
} qmi_tape;

/* Of a part of `program`; begins empty. */
void qmi_tape_begin(qmi_tape *out, const qmi_graph *graph, qmi_program program);
/* Forgets all values. */
void qmi_tape_clear(qmi_tape *tape);
void qmi_tape_end(qmi_tape *tape);

/* Room for the values that a slot has before step `first`. */
float *qmi_tape_add_input(qmi_tape *tape, qmi_slot slot, size_t first,
    int64_t n_tokens, qmi_error *err);
/* What step `step` reads from a slot; NULL: it was not kept. */
const void *qmi_tape_read(const qmi_tape *tape, qmi_slot slot, size_t step);
/* What step `step` wrote to it. */
const void *qmi_tape_written(const qmi_tape *tape, qmi_slot slot, size_t step);

#endif
