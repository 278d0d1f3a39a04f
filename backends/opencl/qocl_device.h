/* SPDX-License-Identifier: Apache-2.0
 * The OpenCL backend inside: devices, programs, weights, launches.
 * docs/kernels/opencl.md describes the design. */
#ifndef QOCL_H
#define QOCL_H

#include "backend.h"
#include "cl_api.h"
#include "tuning.h"

/* ---- kernels ---- */

/* Programs: one of what needs no format, and per format one for single tokens
 * and one for many. */
enum {
    QOCL_BASE_PROGRAM,
    QOCL_GEMM_PROGRAM,
    QOCL_FIRST_FORMAT_PROGRAM,
    QOCL_N_PROGRAMS = QOCL_FIRST_FORMAT_PROGRAM + 2 * QMI_N_FORMATS
};

#define QOCL_BASE_KERNELS(X)                                                   \
    X(rmsnorm)                                                                 \
    X(rope)                                                                    \
    X(glu)                                                                     \
    X(kv_store)                                                                \
    X(unrotate)                                                                \
    X(group_count)                                                             \
    X(group_fill)                                                              \
    X(combine)                                                                 \
    X(attention)                                                               \
    X(route)                                                                   \
    X(route_drop)                                                              \
    X(top_scan)                                                                \
    X(top_segments)
#define QOCL_GEMM_KERNELS(X)                                                   \
    X(widen)                                                                   \
    X(finish_product)
#define QOCL_FORMAT_KERNELS(X)                                                 \
    X(pack)                                                                    \
    X(pack_rotated)                                                            \
    X(product)                                                                 \
    X(decode_rows)

enum {
#define X(name) QOCL_K_##name,
    QOCL_BASE_KERNELS(X) QOCL_N_BASE_KERNELS
};
enum { QOCL_FORMAT_KERNELS(X) QOCL_N_FORMAT_KERNELS };
enum { QOCL_GEMM_KERNELS(X) QOCL_N_GEMM_KERNELS };
#undef X
enum { QOCL_MAX_KERNELS = 16 };

typedef struct qocl_program {
    cl_program program; /* NULL until built */
    cl_kernel kernels[QOCL_MAX_KERNELS];
    /* Of a unit of work (qocl_call), measured; 0: not yet. */
    double unit_seconds[QOCL_MAX_KERNELS];
} qocl_program;

/* ---- devices ---- */

/* Work space that grows and stays. */
typedef enum qocl_scratch {
    QOCL_PACKED,
    QOCL_HIDDEN,  /* results of an expert's first product */
    QOCL_RESULTS, /* and of its second */
    QOCL_COUNTS,
    QOCL_ORDER,
    QOCL_TILES,
    QOCL_CHOSEN,
    QOCL_SCORES, /* biased, of experts, then those of groups */
    QOCL_TOP,    /* keys between the steps of top_segments, in turn */
    QOCL_TOP2,
    QOCL_N_SCRATCH
} qocl_scratch;

/* A matrix of a streamed stack (stream.h). */
typedef struct qocl_entry qocl_entry;

struct qmi_buffer {
    cl_mem mem;
    uint64_t n_bytes;
};

struct qmi_device {
    cl_device_id id;
    cl_context context;
    cl_command_queue queue;
    char name[128];
    uint64_t identity; /* of device, driver and platform, for the cache */
    qocl_limits limits;
    qocl_tuning tuning;
    const qocl_tuning *forced; /* while opening: the tuning to use; or NULL */
    uint64_t allocated;
    /* Experts do not all fit: they come when they are needed (stream.h). */
    bool streams;
    bool zero_copy; /* weights are used in the file map where they lie */
    cl_command_queue transfers;  /* when streams */
    qocl_entry *newest, *oldest; /* what is there of them, by last use */
    uint64_t streamed_bytes, pinned_bytes; /* of them */
    qocl_program programs[QOCL_N_PROGRAMS];
    bool tested[QMI_N_FORMATS];
    cl_mem dummy; /* for absent operands */
    cl_mem generic_dict;
    qmi_buffer scratch[QOCL_N_SCRATCH];
    /* What the queue holds since it was last waited for (launch.c). */
    double queued_since, queued_seconds;
};

/* "OpenCL device 'name': what: CL_..." as E_DEVICE. */
qmoe_status qocl_fail(
    const qmi_device *device, const char *what, cl_int status, qmi_error *err);
/* Memory within the device's limits; the error says needed and available. */
qmoe_status qocl_alloc(cl_mem *out, qmi_device *device, uint64_t n_bytes,
    const char *what, qmi_error *err);
void qocl_release(qmi_device *device, cl_mem mem, uint64_t n_bytes);
qmoe_status qocl_upload(qmi_device *device, cl_mem mem, uint64_t offset,
    const void *src, uint64_t n_bytes, qmi_error *err);
/* Enqueues a write of a whole new buffer on device->transfers; *event becomes
 * its event.  `src` must stay until it has ended. */
qmoe_status qocl_upload_later(qmi_device *device, cl_mem mem, const void *src,
    uint64_t n_bytes, cl_event *event, qmi_error *err);
/* Makes scratch `which` hold n_bytes; what it held is lost. */
qmoe_status qocl_reserve(
    qmi_device *device, qocl_scratch which, uint64_t n_bytes, qmi_error *err);
qmi_view qocl_scratch_view(qmi_device *device, qocl_scratch which);

/* The device's tuning: what was measured on it, else the default for its kind;
 * then what QMOE_OPENCL_TUNING assigns (for tests). */
qmoe_status qocl_choose_tuning(qmi_device *device, bool is_cpu, qmi_error *err);
/* Keeps a tuning on disk, for this device, driver and these kernels. */
void qocl_keep_tuning(const qmi_device *device, const qocl_tuning *tuning);

/* ---- programs ---- */

int qocl_format_program(qmi_format_id format, bool many);
/* Tokens per tile of a product of many. */
int qocl_many(const qmi_device *device, qmi_format_id format);
/* Builds, or loads from the cache, unless that was done before. */
qmoe_status qocl_build(qmi_device *device, int program, qmi_error *err);
/* One that is not built is fine; so is every one afterwards. */
void qocl_release_program(qocl_program *program);

/* Of the device and all kernel sources. */
uint64_t qocl_tuning_key(const qmi_device *device);

/* ---- weights ---- */

/* Matrices [first_mat, + n_mats) of a stack, or of a single matrix too large
 * for one buffer the rows [first_row, + n_rows). */
typedef struct qocl_chunk {
    int first_mat, n_mats, first_row, n_rows;
    cl_mem parts[QMI_MAX_PARTS];
    uint64_t n_bytes[QMI_MAX_PARTS];
} qocl_chunk;

typedef struct qocl_weight {
    qmi_format_id format;
    qocl_entry *entries; /* [n_mats] of a streamed stack, without chunks */
    size_t n_chunks;
    qocl_chunk *chunks;
    cl_mem vector; /* f32 values of a single row; else NULL */
    uint64_t vector_bytes;
    cl_mem dict; /* of formats that need one; else NULL */
    bool own_dict;
    cl_ulong tile_bytes; /* of formats in tiles; else 0 */
} qocl_weight;

/* Decides from what will be bound and the memory there is whether experts are
 * streamed.  E_NOMEM names bytes needed and available. */
qmoe_status qocl_plan(
    qmi_device *device, const qmi_device_options *options, qmi_error *err);
/* Places a range of matrices on the device; through device->transfers without
 * waiting when `uploaded` is not NULL, which then is the event of the last
 * write.  Release with qocl_chunk_release, after failure too. */
qmoe_status qocl_chunk_fill(qocl_chunk *chunk, qmi_device *device,
    const qmi_bound_weight *weight, int64_t mat, int64_t n, cl_event *uploaded,
    qmi_error *err);
void qocl_chunk_release(qmi_device *device, qocl_chunk *chunk);

bool qocl_is_streamed(const qmi_bound_weight *weight);
/* Absent, or of one row, whose float32 values are on the device. */
bool qocl_has_vector(const qmi_bound_weight *weight);
/* Bytes that one matrix takes on the device. */
uint64_t qocl_matrix_bytes(const qmi_bound_weight *weight, int64_t mat);

qmoe_status qocl_weight_bind(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err);
void qocl_weight_unbind(qmi_device *device, qmi_bound_weight *weight);

/* ---- launches ---- */

/* A kernel getting its arguments in order; the first error is kept. */
typedef struct qocl_call {
    qmi_device *device;
    cl_kernel kernel;
    const char *name;
    cl_uint n;
    cl_int status;
    double *unit_seconds; /* of a unit of work: a work-item, `depth` times */
    int64_t depth;        /* 1, or the length of a loop that varies a lot */
    int64_t first_y;      /* the launch begins at this y */
    cl_event after;       /* NULL, or what it waits for */
    cl_event *finish;     /* NULL, or where to put its end */
} qocl_call;

qocl_call qocl_begin(qmi_device *device, int program, int kernel);
void qocl_arg_int(qocl_call *call, int64_t value);
void qocl_arg_uint(qocl_call *call, uint32_t value);
void qocl_arg_ulong(qocl_call *call, cl_ulong value);
void qocl_arg_float(qocl_call *call, float value);
void qocl_arg_mem(qocl_call *call, cl_mem mem); /* NULL: the dummy */
/* Buffer and first element. */
void qocl_arg_view(qocl_call *call, qmi_view view);
/* The float32 values of a weight of one row, and whether there is one. */
void qocl_arg_vector(qocl_call *call, const qmi_bound_weight *weight);
/* Global sizes x, y, z; x is rounded up to a multiple of `local`.  A long launch
 * is cut along y, so kernels ask for get_global_id(1), and the queue never holds
 * much more than 20 ms of work.  E_CANCELLED: part of it was left out. */
qmoe_status qocl_run(qocl_call *call, int64_t local, int64_t x, int64_t y,
    int64_t z, qmi_error *err);
/* A weight's chunk: its place and parts. */
void qocl_arg_chunk_place(qocl_call *call, const qocl_chunk *chunk);
void qocl_arg_chunk_parts(
    qocl_call *call, const qocl_weight *weight, const qocl_chunk *chunk);

/* ---- operations ---- */

#define X(name, member, text)                                                  \
    qmoe_status qocl_run_##member(                                             \
        qmi_device *device, const qmi_op *op, qmi_error *err);
QMI_OP_MAP(X)
#undef X

/* The ways to run it: by scan, on processors alone, and by segments. */
const qmi_variant *qocl_variants_top_logits(
    const qmi_device *device, size_t *n);

/* ---- tuning ---- */

/* device_open with a tuning; NULL: the default, whatever is on disk. */
qmoe_status qocl_open_tuned(
    qmi_device **out, int index, const qocl_tuning *tuning, qmi_error *err);
/* qmi_backend.tune. */
qmoe_status qocl_run_tune(
    int index, qmi_tune_report *report, void *user, qmi_error *err);

/* ---- self-test ---- */

/* The kernels that depend on no format, and the expert path, against the
 * reference operations. */
qmoe_status qocl_test_device(qmi_device *device, qmi_error *err);
/* Decode and products of a bound weight against the host's decoder. */
qmoe_status qocl_test_weight(
    qmi_device *device, const qmi_bound_weight *weight, qmi_error *err);

extern const qmi_backend qocl_backend;

#endif
