/* SPDX-License-Identifier: Apache-2.0
 *
 * qmoe: run Mixture-of-Experts models compressed below one bit per expert
 * weight.  This header is the runtime: devices, models, sessions.  The
 * compressor is qmoe/quant.h.
 *
 * Conventions
 *  - Every fallible function returns a qmoe_status; on failure outputs are
 *    NULL / 0 and qmoe_context_error() holds one line naming file and cause.
 *  - NULL for a pointer is E_INVALID unless its comment allows NULL.  Options
 *    may be NULL, and so may their pointers.  Given NULL, functions without a
 *    status do nothing, or give zeros.
 *  - Argument order: created object or handle, outputs, inputs; a length
 *    follows its pointer; options last.
 *  - A pointer to const handle may be used from several threads at once; a
 *    non-const handle is for one thread at a time.
 *  - x_create / x_open pair with x_destroy / x_close, which accept NULL.  They
 *    may come in any order, also within a hook: what is still used by a model,
 *    a session or a running call is released with the last of them.
 *  - A hook may call the library, but not the session whose call runs the hook
 *    (E_INVALID).  A session destroyed by such a hook ends that call with
 *    E_INVALID.
 *  - Options structs start with their own size: set `size = sizeof(struct)`
 *    and zero the rest for defaults.
 *  - Strings are UTF-8.  The library never prints, exits or aborts. */
#ifndef QMOE_H
#define QMOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QMOE_VERSION_MAJOR 0
#define QMOE_VERSION_MINOR 1
#define QMOE_VERSION_PATCH 0

#if defined(QMOE_SHARED) && defined(_WIN32)
#define QMOE_API __declspec(dllexport)
#elif defined(__GNUC__)
#define QMOE_API __attribute__((visibility("default")))
#else
#define QMOE_API
#endif

#if defined(__GNUC__)
#define QMOE_MUST_CHECK __attribute__((warn_unused_result))
#else
#define QMOE_MUST_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, value, text).  Values are pinned; gaps are kept per class. */
#define QMOE_STATUS_MAP(X)                                                     \
    X(OK, 0, "success")                                                        \
    X(E_INVALID, -1, "invalid argument")                                       \
    X(E_NOMEM, -2, "out of memory")                                            \
    X(E_CANCELLED, -3, "cancelled")                                            \
    X(E_INTERNAL, -4, "internal error")                                        \
    X(E_IO, -20, "input/output error")                                         \
    X(E_NOT_FOUND, -21, "not found")                                           \
    X(E_NO_SPACE, -22, "no space left")                                        \
    X(E_EXISTS, -23, "already exists")                                         \
    X(E_FORMAT, -40, "malformed file")                                         \
    X(E_CHECKSUM, -41, "checksum mismatch")                                    \
    X(E_UNSUPPORTED, -60, "unsupported")                                       \
    X(E_NO_BACKEND, -61, "backend not available")                              \
    X(E_DEVICE, -62, "device error")

typedef enum qmoe_status {
#define X(name, value, text) QMOE_##name = value,
    QMOE_STATUS_MAP(X)
#undef X
} qmoe_status;

/* "E_FORMAT" / "malformed file"; "E_INTERNAL"'s for an unknown value. */
QMOE_API const char *qmoe_status_name(qmoe_status status);
QMOE_API const char *qmoe_status_text(qmoe_status status);
/* "0.1.0" */
QMOE_API const char *qmoe_version(void);

/* ---- context ---------------------------------------------------------- */

typedef struct qmoe_context qmoe_context;

typedef struct qmoe_progress {
    const char *stage; /* "quantize", "verify", ...; static storage */
    const char *item;  /* what is worked on now, or NULL */
    /* In the stage's unit: bytes (load, verify, checksum), weights (quantize),
     * samples (evaluate).  `total` 0 = unknown. */
    uint64_t done, total;
} qmoe_progress;

typedef struct qmoe_context_options {
    size_t size;
    /* CPU threads of this library's operations; 0 = all processors this
     * process may use, or with QMOE_THREADS=openmp what OpenMP would use. */
    int n_threads;
    /* Called from the calling thread during long work, between its steps and
     * while it waits for other threads.  A non-zero return cancels the work:
     * the call ends with E_CANCELLED.  May be NULL.  See also
     * qmoe_context_cancel, which does not wait for a step to end. */
    int (*progress)(void *user, const qmoe_progress *progress);
    /* One-line notes a user should see (a fallback, a choice).  May be NULL. */
    void (*message)(void *user, const char *text);
    void *user;
    /* Folder of the loadable backend modules; NULL = $QMOE_BACKEND_PATH if
     * set, else the folder qmoe-backends beside the running program, else
     * the installed one. */
    const char *backend_path;
} qmoe_context_options;

/* `options` may be NULL.  E_INVALID, E_NOMEM. */
QMOE_API qmoe_status qmoe_context_create(
    qmoe_context **out, const qmoe_context_options *options) QMOE_MUST_CHECK;
QMOE_API void qmoe_context_destroy(qmoe_context *context);
/* Text of the last call on `context` or an object made from it if that failed,
 * else "".  Valid until the next call. */
QMOE_API const char *qmoe_context_error(const qmoe_context *context);
/* true: a long call that runs on `context` or an object made from it ends with
 * E_CANCELLED, after at most about 50 ms of work (on CUDA that is an estimate,
 * not measured).  Long calls that begin later end, too, until the function is
 * called with false.  Objects of a cancelled call can be used again or
 * destroyed.  May be called from any thread and from a signal handler while
 * the context exists.  NULL does nothing. */
QMOE_API void qmoe_context_cancel(qmoe_context *context, bool wanted);

/* ---- backends and devices --------------------------------------------- */

typedef struct qmoe_device_info {
    char backend[16]; /* "cpu", "opencl", "cuda", "reference" */
    int index;        /* device number within its backend; -1: no device */
    bool usable;      /* false: `detail` says what is missing */
    bool is_gpu;
    char type[16]; /* "cpu", "gpu", "accelerator" */
    char name[128];
    char detail[256];      /* driver, instruction sets, or the reason */
    uint64_t memory_bytes; /* 0 = unknown */
} qmoe_device_info;

/* Facts to record with results measured on a GPU; 0, "": unknown. */
typedef struct qmoe_device_facts {
    int capability_major, capability_minor;
    int n_multiprocessors;
    int driver_version; /* 13000 = 13.0 */
    uint64_t l2_bytes;
    /* Clocks, at the moment of asking and at most. */
    int core_mhz, most_core_mhz, memory_mhz, most_memory_mhz;
    char products[48]; /* library of dense products, with its version */
} qmoe_device_facts;

/* Lists every device of every backend; a backend without a usable device is
 * one entry with usable = false.  Writes up to `capacity` entries, *n is the
 * full count.  E_INVALID. */
QMOE_API qmoe_status qmoe_devices(qmoe_context *context, qmoe_device_info *out,
    size_t capacity, size_t *n) QMOE_MUST_CHECK;

/* Finds a device by its backend ("auto" or NULL: see qmoe_session_options) and
 * a word (number, type or part of its name; NULL: the first).
 * E_INVALID: unknown backend, or several devices match; E_NO_BACKEND: the
 * backend is not available, or has no such device. */
QMOE_API qmoe_status qmoe_find_device(qmoe_context *context,
    qmoe_device_info *out, const char *backend,
    const char *device) QMOE_MUST_CHECK;

/* Told of each candidate that qmoe_tune measures: seconds per product of a
 * weight in `format` with n_tokens; < 0: the device does not run it. */
typedef void qmoe_tune_fn(void *user, const char *format, int64_t n_tokens,
    const char *candidate, double seconds);

/* Finds the fastest kernels of a device and records them in the user's cache
 * directory for devices opened later, by any process.  `backend` and
 * `device` as in qmoe_find_device.  Blocks for up to a
 * minute; `report` may be NULL.
 * E_UNSUPPORTED: the backend has nothing to tune; E_NO_BACKEND, E_INVALID (no
 * such backend or device), E_DEVICE, E_NOMEM. */
QMOE_API qmoe_status qmoe_tune(qmoe_context *context, const char *backend,
    const char *device, qmoe_tune_fn *report, void *user) QMOE_MUST_CHECK;

/* ---- models ----------------------------------------------------------- */

/* What a weight is for, and what an operation of a pass belongs to: sizes,
 * bytes per token and times are reported by it.  X(NAME, "text"). */
#define QMOE_ROLE_MAP(X)                                                       \
    X(ATTENTION, "attention") /* projections, scores, caches */                \
    X(ROUTER, "router")                                                        \
    X(EXPERTS, "experts")                                                      \
    X(DENSE_FFN, "dense_ffn")   /* of blocks without experts */                \
    X(SHARED_FFN, "shared_ffn") /* beside experts, for every token */          \
    X(NORM, "norm")                                                            \
    X(EMBEDDING, "embedding") /* and the head that is tied to it */            \
    X(HEAD, "head")           /* logits, and the largest of them */            \
    X(POSITION_BIAS, "position_bias")

typedef enum qmoe_role {
#define X(name, text) QMOE_ROLE_##name,
    QMOE_ROLE_MAP(X)
#undef X
        QMOE_ROLE_COUNT
} qmoe_role;

/* "dense_ffn"; NULL for a value out of range. */
QMOE_API const char *qmoe_role_name(qmoe_role role);

typedef struct qmoe_model qmoe_model;

/* Opens a model directory: an uncompressed Hugging Face checkpoint
 * (config.json, safetensors, tokenizer) or a compressed directory written
 * by qmoe_compress (docs/format.md).  Weights are memory-mapped, not read.
 * Of a compressed model the digests of configuration, tokenizer, index and
 * headers are checked, which costs no more than reading them; the data of
 * tensors are not (qmoe_verify).
 * E_NOT_FOUND: directory or a file missing; E_FORMAT: a file breaks its
 * format; E_CHECKSUM: a file is not the one that config.json records;
 * E_UNSUPPORTED: another architecture, dtype or format version. */
QMOE_API qmoe_status qmoe_model_open(qmoe_model **out, qmoe_context *context,
    const char *directory) QMOE_MUST_CHECK;
QMOE_API void qmoe_model_close(qmoe_model *model);

typedef struct qmoe_model_info {
    char architecture[64]; /* "switch_transformers" */
    char format[32];       /* of the experts: "bf16", "ternary-dict", ... */
    int64_t d_model, d_ff, d_kv, n_heads, n_experts, vocab_size;
    int64_t n_encoder_blocks, n_decoder_blocks;
    int64_t n_sparse_blocks; /* of encoder and decoder */
    bool compressed;
    bool synthetic; /* "synth:...": random weights, made when they are used */
    /* Trained to predict the next token (qmoe_session_perplexity), else span
     * corruption (qmoe_session_eval). */
    bool predicts_next;
} qmoe_model_info;

QMOE_API void qmoe_model_describe(
    const qmoe_model *model, qmoe_model_info *out);

/* One weight of the model: a matrix, or all experts' matrices of one block
 * and kind as a stack. */
typedef struct qmoe_weight_info {
    const char *name;   /* owned by the model */
    const char *format; /* static storage */
    int64_t n_matrices, n_rows, n_cols;
    uint64_t n_weights; /* n_matrices * n_rows * n_cols */
    uint64_t n_bytes;   /* all file bytes that belong to it */
    qmoe_role role;
    int rotation; /* columns per block of the rotation it is stored under, 0 =
                   * none (docs/format.md, section 8.4) */
} qmoe_weight_info;

QMOE_API size_t qmoe_model_weight_count(const qmoe_model *model);
/* `index` < count, else E_INVALID. */
QMOE_API qmoe_status qmoe_model_weight(const qmoe_model *model, size_t index,
    qmoe_weight_info *out) QMOE_MUST_CHECK;

typedef struct qmoe_weight_stats {
    uint64_t n_zeros; /* of the values as stored: before a rotation is undone */
    /* Shannon entropy of the decoded values' level codes (zero, low, high)
     * in bits per weight; 0 for formats without levels. */
    double entropy_bits;
} qmoe_weight_stats;

/* Decodes every row of one weight.  E_FORMAT: an undecodable row. */
QMOE_API qmoe_status qmoe_model_weight_stats(
    qmoe_model *model, size_t index, qmoe_weight_stats *out) QMOE_MUST_CHECK;

typedef struct qmoe_verify_report {
    bool compressed;
    bool has_digest; /* configuration, tokenizer and other small files could be
                      * checked; directories of an older writer have none */
    uint64_t n_tensors, n_bytes; /* checked against their checksums */
    uint64_t n_without_checksum; /* uncompressed checkpoints carry none */
    uint64_t n_rows_checked;     /* of compressed weights */
    uint64_t n_faults;
} qmoe_verify_report;

/* Something broken in a model's directory. */
typedef struct qmoe_fault {
    const char *file;   /* its name in the directory; NULL: the text says */
    const char *tensor; /* or stack; NULL: the file itself */
    const char *text;   /* one line */
    qmoe_status status; /* E_CHECKSUM, E_FORMAT, E_IO */
} qmoe_fault;
typedef void qmoe_fault_fn(void *user, const qmoe_fault *fault);

/* Checks the digests of config.json and all other files, every checksum, and
 * that every row of every compressed weight can be decoded (the rules of
 * docs/format.md, section 5), on all threads of the context.  At the end it
 * calls `on_fault` (may be NULL) for everything broken: config.json and the
 * small files first, then shards and their tensors in file order, for any
 * number of threads.  The message hook names files that config.json does not
 * record.  Resident memory does not grow with the model.  A model larger than
 * half the available memory is dropped from the system's file cache.  E_CHECKSUM, E_FORMAT, E_IO: the status and text of the first fault;
 * otherwise as qmoe_model_open. */
QMOE_API qmoe_status qmoe_verify(qmoe_context *context,
    qmoe_verify_report *report, const char *directory, qmoe_fault_fn *on_fault,
    void *user) QMOE_MUST_CHECK;

/* ---- text ------------------------------------------------------------- */

/* Text to ids with the model's tokenizer.  Special tokens in the text are
 * recognised, T5's sentinels "<extra_id_k>" among them; none is added.  Writes up to `capacity`
 * ids, *n is the full count. */
QMOE_API qmoe_status qmoe_tokenize(qmoe_model *model, int32_t *ids,
    size_t capacity, size_t *n, const char *text) QMOE_MUST_CHECK;
/* Ids to text, NUL-terminated and cut at `capacity` bytes; *n is the full
 * length without NUL.  Special tokens are left out, as
 * are ids beyond the tokenizer's. */
QMOE_API qmoe_status qmoe_detokenize(qmoe_model *model, char *text,
    size_t capacity, size_t *n, const int32_t *ids,
    size_t n_ids) QMOE_MUST_CHECK;

/* One turn of a conversation. */
typedef struct qmoe_chat_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* UTF-8 */
} qmoe_chat_message;

typedef struct qmoe_chat_options {
    size_t size;
    bool add_generation_prompt; /* end where the answer begins */
    /* JSON object of variables for the template, like
     * {"enable_thinking": false}; NULL: none. */
    const char *variables;
} qmoe_chat_options;

/* The ids of a conversation as the model's own chat template renders it.  What
 * messages say is text: special tokens in it are not recognised.  *n is their
 * number; at most `capacity` of them are written.  E_NOT_FOUND: the model has
 * no template; E_INVALID: the template refuses the conversation;
 * E_UNSUPPORTED: it asks for what we do not render (docs/chat.md). */
QMOE_API qmoe_status qmoe_chat_tokenize(qmoe_model *model, int32_t *ids,
    size_t capacity, size_t *n, const qmoe_chat_message *messages,
    size_t n_messages, const qmoe_chat_options *options) QMOE_MUST_CHECK;

/* ---- sessions --------------------------------------------------------- */

/* A model placed on one device, with its caches.  One thread at a time. */
typedef struct qmoe_session qmoe_session;

typedef struct qmoe_session_options {
    size_t size;
    /* "cpu", "opencl", "cuda", "reference"; "auto" (or NULL) takes CUDA, else
     * a GPU under OpenCL, else the CPU, and says so by the message hook. */
    const char *backend;
    int device; /* index within the backend; see device_name */
    /* Tokens per sequence and expert beyond which a token skips the expert,
     * as Hugging Face's expert_capacity does; 0 = never drop. */
    int expert_capacity;
    /* Bytes of experts kept in host memory when a backend uses them through
     * the file map (cpu, not reference); least recently used ones are given
     * back.  0 = no bound. */
    uint64_t expert_cache_bytes;
    /* Bytes of the device's memory to use, of devices that have their own; 0 =
     * what it has.  Experts beyond it are uploaded when needed, if the backend
     * can, else E_NOMEM. */
    uint64_t device_memory_bytes;
    /* Not NULL: the device by number, type ("gpu", "cpu", "accelerator") or a
     * part of its name in any case, instead of `device`. */
    const char *device_name;
    /* How keys and values are kept: "f32" (or NULL), "f16", or "q8", 8 bits and
     * a scale per 32 values. */
    const char *kv_type;
} qmoe_session_options;

/* E_NO_BACKEND: the backend or device asked for is absent (the text says what
 * is missing and lists the devices); never replaced silently by another.
 * E_INVALID: device_name means several, or the backend knows no such bound.
 * E_NOMEM: what cannot be left out of
 * the device's memory does not fit. */
QMOE_API qmoe_status qmoe_session_create(qmoe_session **out, qmoe_model *model,
    const qmoe_session_options *options) QMOE_MUST_CHECK;
QMOE_API void qmoe_session_destroy(qmoe_session *session);
QMOE_API void qmoe_session_device(
    const qmoe_session *session, qmoe_device_info *out);

typedef struct qmoe_generate_options {
    size_t size;
    int max_new_tokens; /* 0 = 64 */
    float temperature;  /* 0 = greedy */
    int top_k;          /* 0 = no limit */
    float top_p;        /* 0 or >= 1 = no limit */
    uint64_t seed;
    bool ignore_eos; /* generate exactly max_new_tokens (benchmarks) */
    /* Called once per new token of sequence `sequence`, as they come, with the
     * text the token adds (may be "").  Non-zero cancels.  May be NULL. */
    int (*on_token)(void *user, size_t sequence, int32_t id, const char *text);
    void *user;
    /* Prompts as ids instead of texts, without the end token; needs no
     * tokenizer, without which texts are "".  `prompts` must be NULL then. */
    const int32_t *const *prompt_ids; /* [n_prompts] */
    const size_t *n_prompt_ids;       /* [n_prompts] */
    /* One prompt of a decoder-only model: as far as it begins with the tokens
     * of the session's call before, prompt and result, their keys and values
     * are used again.  For turns of a conversation. */
    bool reuse_cache;
    float min_p; /* 0 = no limit; of the likeliest token's probability */
    /* Logits of tokens that the prompt or the result has are divided by it, or
     * multiplied when negative; 0 or 1 = not. */
    float repetition_penalty;
} qmoe_generate_options;

/* What the model's generation_config.json recommends: temperature, top_k,
 * top_p, min_p, repetition_penalty; 0 temperature where it does not sample. */
QMOE_API void qmoe_model_generation_defaults(
    const qmoe_model *model, qmoe_generate_options *out);

typedef struct qmoe_generation {
    char *text;   /* detokenized, NUL-terminated */
    int32_t *ids; /* [n_ids], without the start token, with the end token */
    size_t n_ids;
    /* With what the model's reading of a prompt adds: the end token for an
     * encoder, the start token for a decoder. */
    size_t n_prompt_ids;
    bool ended; /* stopped at the end token */
} qmoe_generation;

typedef struct qmoe_timing {
    double encode_seconds, decode_seconds;
    /* Tokens.  Without an encoder all of the prompts but their last tokens count
     * as encoded: decoding begins with those. */
    uint64_t n_encoded, n_decoded;
    /* Launches on the device, and how many of them were replayed from existing
     * CUDA graphs; 0 when the backend does not count them. */
    uint64_t n_launches, n_replayed;
} qmoe_timing;

/* Seconds spent in each role, for the encoder with the keys and values that
 * the decoder takes from it, and for the decoder.  A model without an encoder
 * encodes where it takes several tokens of a sequence at once: its prompt. */
typedef struct qmoe_role_times {
    double encode[QMOE_ROLE_COUNT], decode[QMOE_ROLE_COUNT];
} qmoe_role_times;

/* Starts (from zero) or stops adding up times by role.  Off at first: devices
 * other than the CPU must then wait after every operation. */
QMOE_API void qmoe_session_measure_roles(qmoe_session *session, bool on);
/* The sums since the last start. */
QMOE_API void qmoe_session_role_times(
    const qmoe_session *session, qmoe_role_times *out);

/* Generates from `n_prompts` texts as one batch.  *out is an array of
 * n_prompts results, to be released with qmoe_generations_free.  E_FORMAT: a
 * weight or the result of a step is not finite (the text names it); the same
 * for the functions below. */
QMOE_API qmoe_status qmoe_session_generate(qmoe_session *session,
    qmoe_generation **out, qmoe_timing *timing, const char *const *prompts,
    size_t n_prompts, const qmoe_generate_options *options) QMOE_MUST_CHECK;
QMOE_API void qmoe_generations_free(qmoe_generation *generations, size_t n);

/* Teacher-forced pass of one sequence: logits [n_decoder, vocab_size] float32,
 * row-major, for the decoder input `decoder_ids` (which starts with the
 * decoder start token).  A model without an encoder has n_encoder 0.  The
 * caller owns `logits`. */
QMOE_API qmoe_status qmoe_session_logits(qmoe_session *session, float *logits,
    const int32_t *encoder_ids, size_t n_encoder, const int32_t *decoder_ids,
    size_t n_decoder) QMOE_MUST_CHECK;

typedef struct qmoe_eval_result {
    /* Mean over samples of their mean cross entropy, weighted by decoder
     * length (the reference's formula: IST-DASLab/qmoe, facts in
     * docs/evaluation.md). */
    double loss;
    double token_loss; /* plain mean over predicted tokens */
    uint64_t n_samples;
    uint64_t n_tokens;  /* predicted positions */
    uint64_t n_skipped; /* documents too long or empty */
    double seconds;
} qmoe_eval_result;

typedef struct qmoe_eval_options {
    size_t size;
    const char
        *text_path;       /* one document per line, or JSON lines with "text" */
    uint64_t max_samples; /* 0 = all */
    uint32_t seed;        /* of the span masks, NumPy legacy seeding */
    /* More than one text, used one after the other like one file; text_path
     * must be NULL then. */
    const char *const *text_paths; /* [n_text_paths] */
    size_t n_text_paths;
    /* The same per text, or NULL; n_skipped and seconds stay 0. */
    qmoe_eval_result *per_text; /* [n_text_paths] */
    /* No text: max_samples (0 = 8) samples of full length with random ids, for
     * the speed of synthetic models, whose loss means nothing. */
    bool random_ids;
} qmoe_eval_options;

QMOE_API qmoe_status qmoe_session_eval(qmoe_session *session,
    qmoe_eval_result *out, const qmoe_eval_options *options) QMOE_MUST_CHECK;

/* Texts for models that predict the next token.  They are tokenised as a whole
 * and cut into windows that know nothing of each other; what is left is
 * dropped.  For T5 models (qmoe_session_compare) each document is a window, as
 * for qmoe_session_eval; what cuts texts must be 0 then. */
typedef struct qmoe_text_options {
    size_t size;
    const char *const *text_paths; /* [n_text_paths], one after the other */
    size_t n_text_paths;
    /* Each line is a document, or a JSON record with "text", and the end token
     * stands between documents; else files are texts as they are. */
    bool documents;
    /* false: all predictions of a window count, as in the papers on GPTQ; true:
     * those of its second half, as in llama.cpp. */
    bool second_half;
    int n_context;        /* tokens of a window; 0: 2048, or 512 of llama.cpp */
    uint64_t max_windows; /* 0: all */
    uint32_t seed;        /* T5: of the span masks */
    /* qmoe_session_compare: at how many depths to compare, up to
     * QMOE_MAX_DEPTHS; each costs a pass of `base` more. */
    int n_depths;
} qmoe_text_options;
enum { QMOE_MAX_DEPTHS = 15 };

typedef struct qmoe_perplexity {
    double loss;       /* mean cross entropy in nats */
    double perplexity; /* exp(loss) */
    uint64_t n_tokens; /* predictions that counted */
    uint64_t n_windows;
    int n_context; /* 0: documents of different lengths */
    double seconds;
} qmoe_perplexity;

/* E_UNSUPPORTED: the model was trained for another task (qmoe_session_eval). */
QMOE_API qmoe_status qmoe_session_perplexity(qmoe_session *session,
    qmoe_perplexity *out, const qmoe_text_options *options) QMOE_MUST_CHECK;

/* What a block of one model does otherwise than the same block of another. */
typedef struct qmoe_block_difference {
    /* Share of tokens for which both choose the same experts; NAN: none. */
    double router_agreement;
    /* Squared difference of what the block hands on, of its squares. */
    double residual_error;
} qmoe_block_difference;

/* Of `base` whose first blocks, the one at this depth among them, hand on what
 * those of `other` do. */
typedef struct qmoe_depth_difference {
    size_t block;
    double mean_kl, top_agreement; /* as those of qmoe_comparison */
} qmoe_depth_difference;

typedef struct qmoe_comparison {
    qmoe_perplexity base, other; /* of the same predictions */
    /* Of the divergences D(base || other) of all predictions, in nats. */
    double mean_kl, median_kl, kl_99, largest_kl;
    double top_agreement; /* share of equal likeliest tokens */
    size_t n_blocks;
    qmoe_block_difference *blocks; /* [n_blocks]; qmoe_comparison_free */
    /* Evenly spread over the blocks; the last is the last block. */
    size_t n_depths;
    qmoe_depth_difference depths[QMOE_MAX_DEPTHS];
} qmoe_comparison;

/* Of any objective.  Both sessions have models of one shape and vocabulary,
 * else E_INVALID; texts are tokenised by that of `base`, errors told by the
 * context of `other`. */
QMOE_API qmoe_status qmoe_session_compare(qmoe_session *other,
    qmoe_session *base, qmoe_comparison *out,
    const qmoe_text_options *options) QMOE_MUST_CHECK;
QMOE_API void qmoe_comparison_free(qmoe_comparison *comparison);

#ifdef __cplusplus
}
#endif

#endif
