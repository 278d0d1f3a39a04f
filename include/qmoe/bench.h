/* SPDX-License-Identifier: Apache-2.0
 *
 * qmoe: measure speed.  See qmoe/qmoe.h for the conventions, and
 * docs/benchmarks.md for what is measured and how to read it. */
#ifndef QMOE_BENCH_H
#define QMOE_BENCH_H

#include "qmoe/qmoe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Facts to record with a result. */
typedef struct qmoe_bench_machine {
    const char *version; /* of the library */
    const char *commit;  /* it was built from, "-dirty" appended when files
                            were changed; "unknown" without git */
    char cpu[128];       /* model name */
    int n_processors;    /* this process may use */
    char blas_core[32];  /* OpenBLAS's choice of kernels; "none": not here */
} qmoe_bench_machine;

QMOE_API void qmoe_bench_describe_machine(qmoe_bench_machine *out);

/* ---- kernels ---------------------------------------------------------- */

typedef enum qmoe_bench_cache {
    QMOE_BENCH_BOTH,
    QMOE_BENCH_HOT, /* every call the same matrix */
    QMOE_BENCH_COLD /* every call another matrix of a stack in memory */
} qmoe_bench_cache;

typedef struct qmoe_bench_shape {
    int64_t rows, cols; /* 1 .. 2^20 each, at most 2^28 weights */
} qmoe_bench_shape;

typedef struct qmoe_bench_kernels_options {
    size_t size;
    const char *backend; /* as in qmoe_session_options, but NULL = "cpu" */
    int device;
    const char *device_name;        /* wins over `device` unless NULL */
    const qmoe_bench_shape *shapes; /* [n_shapes]; 0 = the paper's six */
    size_t n_shapes;
    const int *batches; /* [n_batches] 1 .. 1024 tokens; 0 = 1, 8 and 32 */
    size_t n_batches;
    const int *threads; /* [n_threads]; 0 = 1 */
    size_t n_threads;
    /* "pvq", "ternary-dict", "bf16", "f32", ...; 0 = all but f16 */
    const char *const *formats; /* [n_formats] */
    size_t n_formats;
    const char *variant; /* only this one; NULL = see all_variants */
    bool all_variants;   /* every variant, not only the preferred one, and what
                            others compute instead ("cublas-bf16") */
    qmoe_bench_cache cache;
    int n_rounds;     /* samples of each result; 0 = 9, at most 101 */
    double sample_ms; /* length of a sample; 0 = 30 */
    /* Packed data of each format, at least 4 times a GPU's second-level cache
     * where that is known; 0 = 0.6e9, or 8 times that cache. */
    uint64_t cold_bytes;
    bool thread_time; /* count the processor time of the calling thread
                             instead of the clock's: for machines that have
                             other work; host backends, one thread only */
} qmoe_bench_kernels_options;

/* One product W x with W [rows, cols] and `batch` tokens. */
typedef struct qmoe_bench_kernel {
    const char *format, *variant; /* valid as long as the context */
    int64_t rows, cols;
    int batch, threads;
    bool hot;
    /* Median over the samples of 1e9 rows * cols * batch per second, with the
     * 10th and 90th percentile of the same. */
    double gweights_per_s, p10, p90;
    double gbytes_per_s; /* median of 1e9 packed bytes of W per second */
    /* gbytes_per_s in units of the speed of memory: what `threads` read of the
     * host's, or a GPU's copy_gbytes_per_s. */
    double bandwidth_share;
    /* Speed against other results of the same setting; 0 = not run: bf16's
     * preferred variant, "cublas-bf16" (a product by cuBLAS of activations that
     * are bf16 already) and "paper-design" (docs/kernels/cuda.md). */
    double ratio_bf16, ratio_cublas, ratio_paper;
} qmoe_bench_kernel;

typedef struct qmoe_bench_bandwidth {
    int threads;
    double gbytes_per_s; /* 1e9 bytes, read from host memory */
} qmoe_bench_bandwidth;

typedef struct qmoe_bench_kernels_report {
    qmoe_device_info device;
    qmoe_bench_bandwidth *bandwidth; /* [n_bandwidth] one per thread count;
                                        none for a GPU */
    size_t n_bandwidth;
    qmoe_device_facts facts; /* of a GPU, clocks as they were at the end */
    /* 1e9 bytes read plus bytes written, from memory to memory of a GPU; 0:
     * the device is none. */
    double copy_gbytes_per_s;
    uint64_t cold_bytes; /* as used */
    qmoe_bench_kernel *results;
    size_t n_results;
} qmoe_bench_kernels_report;

/* Times products with random weights of every format.  All contenders of a
 * setting take turns, sample by sample.  A result is compared with the decoded
 * matrix's before it is timed: E_INTERNAL naming the variant when it is wrong.
 * Needs up to cold_bytes of memory per format.  Progress: stage "bench".
 * Release the report with qmoe_bench_kernels_free.
 * E_INVALID: an option out of range, an unknown format or variant;
 * E_UNSUPPORTED: nothing of what was asked for runs on the backend. */
QMOE_API qmoe_status qmoe_bench_kernels(qmoe_context *context,
    qmoe_bench_kernels_report *out,
    const qmoe_bench_kernels_options *options) QMOE_MUST_CHECK;
QMOE_API void qmoe_bench_kernels_free(qmoe_bench_kernels_report *report);

/* ---- attention -------------------------------------------------------- */

typedef struct qmoe_bench_attention_options {
    size_t size;
    int n_heads, d_head; /* 0 = 12 heads of width 64; at most 1024 each */
    int n_queries;       /* new tokens of the sequence; 0 = 1: decoding */
    /* [n_keys] keys of the sequence, the new tokens included, at most 2^20
     * each; 0 = 1024, 4096 and 16384 */
    const int *keys;
    size_t n_keys;
    const int *threads; /* [n_threads]; 0 = 1 */
    size_t n_threads;
    bool all_variants;   /* every variant, not only the preferred one */
    int n_rounds;        /* samples of each result; 0 = 9, at most 101 */
    double sample_ms;    /* length of a sample; 0 = 30 */
    uint64_t cold_bytes; /* keys and values in memory; 0 = 0.6e9 */
    bool thread_time;    /* as in qmoe_bench_kernels_options */
    int n_kv_heads;      /* divides n_heads; 0 = n_heads */
    const char *kv_type; /* as in qmoe_session_options */
} qmoe_bench_attention_options;

/* Causal attention of the last n_queries tokens of a sequence over all of its
 * keys, without position bias. */
typedef struct qmoe_bench_attention_result {
    const char *variant; /* valid as long as the context */
    int n_queries, n_keys, threads;
    /* Medians over the samples, with the 10th and 90th percentile of the
     * first: 1e9 multiply-adds, and 1e9 bytes of keys and values (each counted
     * once per call), per second. */
    double gmacs_per_s, p10, p90, gbytes_per_s;
    double bandwidth_share; /* of what `threads` read from memory */
} qmoe_bench_attention_result;

typedef struct qmoe_bench_attention_report {
    qmoe_device_info device;
    int n_heads, n_kv_heads, d_head; /* as used */
    const char *kv_type;
    qmoe_bench_bandwidth *bandwidth; /* [n_bandwidth] one per thread count */
    size_t n_bandwidth;
    qmoe_bench_attention_result *results;
    size_t n_results;
} qmoe_bench_attention_report;

/* Times the operation `attention` on the CPU, every call on another sequence of
 * cold_bytes of them.  Variants take turns, sample by sample.  Progress: stage
 * "bench".  Release the report with qmoe_bench_attention_free.
 * E_INVALID: an option out of range, heads that do not share evenly, an unknown
 * type, or more queries than keys. */
QMOE_API qmoe_status qmoe_bench_attention(qmoe_context *context,
    qmoe_bench_attention_report *out,
    const qmoe_bench_attention_options *options) QMOE_MUST_CHECK;
QMOE_API void qmoe_bench_attention_free(qmoe_bench_attention_report *report);

/* ---- models ----------------------------------------------------------- */

typedef enum qmoe_bench_routing {
    QMOE_BENCH_ROUTING_MODEL,  /* as the model's routers choose */
    QMOE_BENCH_ROUTING_UNIFORM /* every expert equally likely: for models
                                  whose routers were not trained */
} qmoe_bench_routing;

typedef struct qmoe_bench_model_options {
    size_t size;
    qmoe_session_options session; /* its `size` may stay 0 */
    /* Uncompressed checkpoint of the same model, whose weights the ideal run
     * shares; NULL = decoded ones. */
    qmoe_model *original;
    /* For a synthetic checkpoint ("synth:base-128", see qmoe_compress): the
     * compressed format of its experts, which are random codes in memory;
     * NULL = "pvq".  Other models have their own. */
    const char *format;
    /* The same for matrices of attention, dense and shared feed-forward,
     * embedding and head; NULL = bf16. */
    const char *dense_format;
    int n_prompt_tokens; /* per sequence; 0 = 128 */
    int n_tokens;        /* new ones per sequence; 0 = 64 */
    int n_sequences;     /* run as one batch; 0 = 1 */
    int n_repeats;       /* 0 = 5, at most 101 */
    qmoe_bench_routing routing;
    uint32_t seed; /* of the random token ids and uniform routing */
} qmoe_bench_model_options;

/* Encoding (all prompt tokens at once; of a model without an encoder in
 * portions, with the logits of the last) or decoding (one token of every
 * sequence at a time; the head, without the choice of a token). */
typedef struct qmoe_bench_phase {
    double tokens_per_s, p10, p90; /* median and spread over repetitions */
    /* Seconds per token in each role: medians of further, measured
     * repetitions. */
    double roles[QMOE_ROLE_COUNT];
} qmoe_bench_phase;

/* How a model is run. */
typedef struct qmoe_bench_run {
    qmoe_bench_phase encode, decode;
} qmoe_bench_run;

typedef struct qmoe_bench_model_report {
    qmoe_device_info device;
    qmoe_device_facts facts; /* of a GPU, clocks as they were at the end */
    int n_prompt_tokens, n_tokens, n_sequences, n_repeats, n_threads;
    /* Different experts with tokens, mean over sparse blocks: of the encoder
     * in a pass, of the decoder over all its passes. */
    double experts_encode, experts_decode;
    uint64_t expert_bytes;       /* stored, all experts */
    uint64_t ideal_expert_bytes; /* of the shared weights */
    const char *format;          /* of the experts; static */
    qmoe_bench_run compressed, ideal;
    /* tokens_per_s compressed / ideal: median over repetitions of the ratio
     * within a repetition. */
    double encode_ratio, decode_ratio;
} qmoe_bench_model_report;

/* Speed of `model` against an ideal uncompressed run of it, in which all
 * experts of a matrix stack are one bf16 matrix (so that it always fits and
 * is in favour of no compression), other compressed weights are bf16, too, the
 * rest is the same and every expert gets
 * the same tokens.  Repetitions of both alternate.  CUDA devices hold the one
 * matrix once; under OpenCL every expert's copy takes room: E_NOMEM when it is
 * not there.
 * Progress: stage "bench".
 * E_INVALID: an option out of range, an original of other shapes, a format
 * that does not fit the model; E_UNSUPPORTED: a model with neither experts nor
 * compressed weights. */
QMOE_API qmoe_status qmoe_bench_model(qmoe_model *model,
    qmoe_bench_model_report *out,
    const qmoe_bench_model_options *options) QMOE_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
