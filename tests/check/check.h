/* SPDX-License-Identifier: Apache-2.0
 * The harness: an operation's cases are built into problems (operands with
 * their contents, expected results and per-element bounds), and a variant of a
 * backend is run on each problem twice between poisoned guards.
 * docs/numerics.md derives the bounds.  Adding an operation adds op_<name>.c
 * (its `check_<member>` table is found through QMI_OP_MAP). */
#ifndef QMOE_CHECK_CHECK_H
#define QMOE_CHECK_CHECK_H

#include "backend.h"
#include "inputs.h"
#include "weights.h"

/* ---- verdicts ---- */

/* X(NAME, "text"): what can be wrong with a run. */
#define CHECK_MAP(X)                                                           \
    X(STATUS, "status")     /* bind, run, sync or read failed */               \
    X(GUARD, "guard")       /* bytes between operands touched */               \
    X(INPUT, "input")       /* an input or a weight modified */                \
    X(VALUE, "value")       /* an element outside its own bound */             \
    X(REPEAT, "repeat")     /* the two passes differ in some bit */            \
    X(CRASH, "crash")       /* the process died */                             \
    X(TIMEOUT, "timeout")   /* no answer in time */                            \
    X(COVERAGE, "coverage") /* nothing ran where something should */           \
    X(HARNESS, "harness")   /* reference or generators contradict themselves */

enum check_index {
#define X(name, text) CHECK_##name##_INDEX,
    CHECK_MAP(X)
#undef X
        CHECK_COUNT
};

enum check_bit {
#define X(name, text) CHECK_##name = 1 << CHECK_##name##_INDEX,
    CHECK_MAP(X)
#undef X
};

enum { CHECK_NAME = 160, CHECK_TEXT = 640 };

typedef struct verdict {
    unsigned failed; /* set of check_bit */
    bool skipped;    /* the variant does not support the problem */
    double worst;    /* largest |error| / bound over finite elements */
    char text[CHECK_TEXT];
} verdict;

/* Adds the failure to `v`; the first text of each check is kept. */
void verdict_fail(verdict *v, unsigned check, const char *format, ...)
    QMI_PRINTF(3, 4);
/* "value, repeat" */
void check_names(char *text, size_t capacity, unsigned failed);

/* ---- cases ---- */

typedef enum residual_mode {
    RESIDUAL_NONE,
    RESIDUAL_APART,
    RESIDUAL_IN_PLACE, /* the same view as dst */
    RESIDUAL_COUNT
} residual_mode;

const char *residual_name(residual_mode mode);

/* One problem to be built.  Operations use the fields they need. */
typedef struct check_case {
    char name[CHECK_NAME];     /* unique; the seed derives from it */
    const weight_kind *weight; /* NULL: the operation takes no weight */
    weight_layout layout;
    value_kind x, w; /* of activations and weights */
    int64_t n_tokens;
    int64_t n_mats, n_rows, n_cols, mat;
    residual_mode residual;
    int64_t top_k, capacity;
    int64_t n_heads, d_head, n_spans, max_distance;
    float alpha; /* linear's factor, attention's scale */
    bool causal, bias;
    qmi_act act;
    /* Of linear's and route's bias, attention's sinks, the experts' gate; NULL:
     * there is none. */
    const weight_kind *second;
    int64_t n_kv_heads, d_value, window;
    qmi_kv_type kv_type;
    qmi_router router;
    /* Beyond what T5 needs. */
    bool wide;
    /* The first weight's payload is broken: the backend must say E_FORMAT. */
    bool corrupt;
    int mode; /* the operation's own */
} check_case;

typedef struct case_list {
    check_case *cases;
    size_t n, capacity;
} case_list;

/* A zeroed case, valid until the next add. */
check_case *case_add(case_list *list);
void case_list_free(case_list *list);
/* "<op>/<weight format>/" of a case, to begin its name. */
void case_name(check_case *c, qmi_op_kind kind, const char *format, ...)
    QMI_PRINTF(3, 4);
/* Appends to it. */
void case_name_add(check_case *c, const char *format, ...) QMI_PRINTF(2, 3);
const char *act_name(qmi_act act);
/* A kind of dense weight: of vectors such as biases. */
const weight_kind *choose_dense(size_t index, unsigned salt);

/* ---- problems ---- */

enum { MAX_OPERANDS = 8, MAX_WEIGHTS = 3, NO_VIEW = -1 };

/* One array in device memory, of 4-byte elements. */
typedef struct operand {
    const char *name;
    bool is_output, is_integer;
    int64_t n_rows, n_cols; /* n_cols only to name elements */
    int64_t view_at[2];     /* places of its views in qmi_op; NO_VIEW */
    /* Contents before the run; NULL: an output that starts poisoned. */
    union {
        float *floats;
        int32_t *ints;
        void *bytes;
    } data;
    /* Outputs: what the reference gives, and how far another may be off.
     * NULL bound: exact. */
    union {
        float *floats;
        int32_t *ints;
        void *bytes;
    } want;
    double *bound;
} operand;

typedef struct check_op check_op;

typedef struct problem {
    const check_op *op;
    const check_case *c;
    qmi_op body; /* scalars set; views and weights are filled when bound */
    operand operands[MAX_OPERANDS];
    size_t n_operands;
    gen_weight *weights[MAX_WEIGHTS];
    size_t weight_at[MAX_WEIGHTS]; /* place of the pointer in qmi_op */
    uint64_t weight_hash[MAX_WEIGHTS];
    size_t n_weights;
    qmi_inputs inputs; /* of the variant that the bounds are for */
} problem;

typedef struct check_cost {
    double bytes; /* that any way of running must move */
    double flops;
} check_cost;

/* What the harness knows about an operation. */
struct check_op {
    void (*list)(case_list *list, bool bench);
    /* Sets the body's scalars, adds operands and weights. */
    qmoe_status (*build)(problem *p, rng *r, qmi_error *err);
    /* Sets the outputs' bounds; `want` is there.  NULL: all exact. */
    void (*bound)(problem *p);
    /* Judges got[operand] instead of the elementwise rule.  May be NULL. */
    void (*judge)(const problem *p, const void *const *got, verdict *v);
    check_cost (*cost)(const problem *p);
};

#define X(name, member, text) extern const check_op check_##member;
QMI_OP_MAP(X)
#undef X
const check_op *check_op_of(qmi_op_kind kind);

/* One corrupt case for every format that can be corrupt, like the list's first
 * case with that format. */
void add_corrupt_cases(case_list *list, qmi_op_kind kind);

#define VIEW_AT(member) ((int64_t)offsetof(qmi_op, u.member))

/* For build: `data` zeroed and to be filled. */
operand *add_floats(problem *p, const char *name, int64_t view_at,
    int64_t n_rows, int64_t n_cols);
operand *add_ints(problem *p, const char *name, int64_t view_at, int64_t n_rows,
    int64_t n_cols);
/* An output that starts poisoned. */
operand *add_output(problem *p, const char *name, int64_t view_at,
    int64_t n_rows, int64_t n_cols);
/* The output "dst" and its residual in the case's mode; values of `kind`. */
void add_output_with_residual(problem *p, int64_t dst_at, int64_t residual_at,
    int64_t n_rows, int64_t n_cols, rng *r, value_kind kind);
/* `place`: offsetof the pointer in qmi_op.  The weight is the problem's. */
qmoe_status add_weight(problem *p, size_t place, const weight_request *request,
    rng *r, qmi_error *err);

/* A vector of the case's `second` kind; none when that is NULL. */
qmoe_status add_vector(problem *p, size_t place, int64_t n, value_kind values,
    rng *r, qmi_error *err);

/* For bound, judge and cost: NULL when there is no such operand. */
const operand *find_operand(const problem *p, const char *name);
const float *find_floats(const problem *p, const char *name);
/* Its values, or NULL: add_vector's weight is the problem's last. */
const float *find_vector(const problem *p);
/* A zeroed bound per element of an output. */
double *make_bound(problem *p, const char *name);
/* Bytes of all operands. */
double operand_bytes(const problem *p);

/* Element `i` of an output against its bound; the rule for floats. */
bool value_in_bound(float got, float want, double bound);
/* Keeps the largest share of its bound that an element used. */
void note_error(verdict *v, float got, float want, double bound);
/* Every element of one output. */
void judge_operand(const operand *o, const void *got, verdict *v);

/* Builds the problem and solves it by the reference backend. */
qmoe_status problem_create(problem **out, qmi_op_kind kind, const check_case *c,
    uint64_t seed, qmi_error *err);
void problem_destroy(problem *p);

/* ---- running ---- */

enum { N_PASSES = 2 };

/* One device of a backend, opened once per pass: the second has another
 * number of threads, so that results may not depend on it. */
typedef struct target {
    const qmi_backend *backend;
    qmi_device *devices[N_PASSES];
} target;

qmoe_status target_open(
    target *out, const qmi_backend *backend, int index, qmi_error *err);
void target_close(target *t);

/* A problem placed on a device: one buffer with all operands. */
typedef struct placement {
    const qmi_backend *backend;
    qmi_device *device;
    qmi_buffer *buffer;
    qmi_bound_weight weights[MAX_WEIGHTS];
    size_t n_weights;
    qmi_op op;
    uint8_t *before; /* the buffer's bytes as written */
    size_t n_bytes;
    size_t at[MAX_OPERANDS];
} placement;

/* `weights` NULL: the problem's own.  Writes nothing to the device yet.
 * Release with placement_close, after failure too. */
qmoe_status placement_open(placement *out, const qmi_backend *backend,
    qmi_device *device, const problem *p, gen_weight *const *weights, int pass,
    qmi_error *err);
qmoe_status placement_write(placement *pl, qmi_error *err);
void placement_close(placement *pl);

/* Variant number `variant` of the problem's operation on `t`: both passes and
 * all checks. */
void check_run(verdict *v, problem *p, const target *t, size_t variant);
/* Does the variant take the problem?  Nothing runs. */
bool check_supported(const problem *p, const target *t, size_t variant);
/* Does the backend take the problem's weights, for any operation? */
bool check_bindable(const problem *p, const target *t);

/* ---- bounds (docs/numerics.md) ---- */

/* Unit roundoff of float32, and its smallest normal number. */
#define UNIT_ROUNDOFF 0x1p-24
#define SMALLEST_NORMAL 0x1p-126

/* Rounding errors that n float32 additions and products of independent terms
 * leave, in units of UNIT_ROUNDOFF * sum |terms|, in any order of adding. */
double sum_growth(int64_t n);

/* |act(x)|, and how far a float32 activation of a value that is within `error`
 * of x may be from it. */
double act_size(qmi_act act, double x);
double act_error(qmi_act act, double x, double error);

/* sum |a[i]| */
double sum_abs(const float *a, int64_t n);
/* sum |a[i] * b[i]| */
double sum_abs_products(const float *a, const float *b, int64_t n);

#endif
