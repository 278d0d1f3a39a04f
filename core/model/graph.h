/* SPDX-License-Identifier: Apache-2.0
 * The computation of a model as data: slots, caches, tables, and programs made
 * of steps.  An architecture fills a graph when a model is opened; nothing
 * changes it later.  A session gives each slot, cache and table memory, and
 * turns each step into an operation of ops.h for the batch at hand (steps.c).
 *
 * Slots, caches and tables are named by numbers from 1 on, in the order in
 * which they were added; QMI_NONE (0) stands for none. */
#ifndef QMI_GRAPH_H
#define QMI_GRAPH_H

#include "dtype.h"
#include "ops.h"
#include "rotary.h"
#include "shape.h"

enum { QMI_NONE };

/* Values of a pass: [tokens, width] of one type. */
typedef int32_t qmi_slot;
typedef struct qmi_slot_spec {
    const char *name; /* static */
    int64_t width;
    qmi_dtype dtype; /* QMI_F32 or QMI_I32 */
} qmi_slot_spec;

/* How many rows a cache has. */
typedef enum qmi_cache_rule {
    QMI_CACHE_GROWING, /* one per token that a sequence has decoded */
    QMI_CACHE_ENCODED  /* one per token of the encoder, set once per batch */
} qmi_cache_rule;

/* Rows that are kept between passes: f32 [rows, width]. */
typedef int32_t qmi_cache;
typedef struct qmi_cache_spec {
    int32_t block; /* whose attention reads it; number of the model's blocks */
    int64_t width;
    qmi_cache_rule rule;
} qmi_cache_spec;

/* A position bias: a learned value per head for each bucket of distances
 * between key and query (qmi_relative_bucket). */
typedef int32_t qmi_table;
typedef struct qmi_table_spec {
    qmi_program program; /* whose sequences its distances are of */
    uint32_t weight;     /* [n_buckets, n_heads] */
    int64_t max_distance;
    bool bidirectional;
} qmi_table_spec;

/* Angles of a rotary position embedding (rotary.h). */
typedef int32_t qmi_rotary;

/* `block` of a step that belongs to none. */
enum { QMI_BEFORE_BLOCKS = -1, QMI_AFTER_BLOCKS = -2 };
enum { QMI_MAX_STEP_WEIGHTS = 3 };
/* The weights of a step of QMI_OP_EXPERT_FFN; some have no gate. */
enum { QMI_EXPERT_UP, QMI_EXPERT_DOWN, QMI_EXPERT_GATE };

typedef struct qmi_step {
    qmi_op_kind kind;
    qmoe_role role;
    int32_t block; /* number of the model's blocks, or one of the above */
    qmi_slot dst, src, residual;
    uint32_t weights[QMI_MAX_STEP_WEIGHTS]; /* of the model */
    int n_weights;
    union {
        struct {
            float epsilon;
            int64_t n_groups; /* of a row, each normed by itself; 0: one */
        } rmsnorm;
        struct {
            qmi_rotary rotary;
            int64_t n_heads, d_head;
        } rope;
        struct { /* weights: the matrix, and perhaps a bias */
            float alpha;
            qmi_act act;
        } linear;
        struct { /* src: what is gated */
            qmi_slot gate;
            qmi_act act;
        } glu;
        struct {
            qmi_cache cache;
        } kv_store;
        struct {           /* weights: perhaps sinks */
            qmi_slot k, v; /* or, from passes before: */
            qmi_cache k_cache, v_cache;
            qmi_table bias;
            int64_t n_heads, n_kv_heads, d_key, d_value, window;
            float scale;
            bool causal;
        } attention;
        struct { /* dst: the weights of the chosen; weights: perhaps a bias */
            qmi_slot chosen;
            int64_t n_experts, top_k;
            qmi_router router;
        } route;
        struct { /* weights: up, down, and perhaps gate */
            qmi_slot chosen, scale;
            int64_t top_k;
            qmi_act act;
        } expert_ffn;
    } u;
} qmi_step;

typedef struct qmi_steps {
    qmi_step *items;
    size_t n, capacity;
    qmi_slot output; /* what the list leaves */
} qmi_steps;

typedef struct qmi_graph {
    qmi_slot_spec *slots; /* [n_slots + 1], number 0 is none; so below */
    qmi_cache_spec *caches;
    qmi_table_spec *tables;
    qmi_rotary_spec *rotaries;
    size_t n_slots, n_caches, n_tables, n_rotaries;
    qmi_steps programs[QMI_N_PROGRAMS]; /* empty: the model has none */
    qmi_slot residual;                  /* what one block hands to the next */
} qmi_graph;

qmoe_status qmi_graph_add_slot(
    qmi_graph *graph, qmi_slot *out, qmi_slot_spec slot, qmi_error *err);
/* A slot, and where its number goes. */
typedef struct qmi_slot_entry {
    qmi_slot *out;
    qmi_slot_spec spec;
} qmi_slot_entry;
/* Several; those of width 0, which no step has, keep the number they have. */
qmoe_status qmi_graph_add_slots(
    qmi_graph *graph, const qmi_slot_entry *slots, size_t n, qmi_error *err);
qmoe_status qmi_graph_add_cache(
    qmi_graph *graph, qmi_cache *out, qmi_cache_spec cache, qmi_error *err);
qmoe_status qmi_graph_add_table(
    qmi_graph *graph, qmi_table *out, qmi_table_spec table, qmi_error *err);
qmoe_status qmi_graph_add_rotary(qmi_graph *graph, qmi_rotary *out,
    const qmi_rotary_spec *rotary, qmi_error *err);
qmoe_status qmi_graph_add_step(
    qmi_graph *graph, qmi_program program, qmi_step step, qmi_error *err);
void qmi_graph_free(qmi_graph *graph);

/* Steps [*first, *last) of a block; empty when it has none.  They are
 * neighbours: architectures list a block's steps one after the other. */
void qmi_steps_of_block(
    const qmi_steps *steps, int32_t block, size_t *first, size_t *last);

/* Values of a position's turns in the first n rotary embeddings. */
static inline int64_t qmi_turns_width(const qmi_graph *graph, size_t n)
{
    int64_t width = 0;
    for (size_t i = 1; i <= n; i++)
        width += graph->rotaries[i].width;
    return width;
}

/* Whether a model has an encoder. */
static inline bool qmi_graph_encodes(const qmi_graph *graph)
{
    return graph->programs[QMI_ENCODE].n != 0;
}

#endif
