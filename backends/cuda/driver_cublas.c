/* SPDX-License-Identifier: Apache-2.0
 * The part of cuBLAS that is used (driver_cublas.h), loaded when it is there.
 * In: a stream and products.  Out: products in order with the stream's kernels,
 * or a text that says why not.  Its numbers are fixed since version 11;
 * tests/cuda/test_cublas.c compares them with the header. */
#include "driver_cublas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OP_N = 0,
    OP_T = 1,
    TYPE_F32 = 0,
    TYPE_BF16 = 14,
    COMPUTE_F32 = 68,
    COMPUTE_F32_PEDANTIC = 69, /* no tf32 behind our back */
    /* Splits of k must not be added up in fewer bits. */
    MATH_NO_REDUCED_SUMS = 16,
    DEFAULT_ALGORITHM = -1
};

typedef int gemm_fn(void *handle, int op_a, int op_b, int m, int n, int k,
    const void *alpha, const void *a, int a_type, int a_step, const void *b,
    int b_type, int b_step, const void *beta, void *c, int c_type, int c_step,
    int compute_type, int algorithm);

typedef struct library {
    char name[48];
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    int (*set_workspace)(void *handle, void *data, size_t n_bytes);
    int (*set_math_mode)(void *handle, int mode);
    int (*property)(int which, int *value);
    gemm_fn *gemm;
    const char *(*status_text)(int status); /* or NULL: an older one */
} library;

struct qcublas {
    void *handle;
    void *workspace; /* as the library was told */
};

/* Loaded once and never closed: handles may live until the process ends. */
static library the_library;
static bool is_usable;

/* ---- finding ---- */

/* What the user names is the only candidate: if it fails, there is no cuBLAS,
 * and not another one than was asked for. */
static void *open_library(void)
{
    /* Newest first: it knows the newest devices. */
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12",
        "libcublas.so.11", "libcublas.so"};
    const char *wanted = getenv("QMOE_CUBLAS");
    if (wanted != NULL && wanted[0] != '\0')
        return strcmp(wanted, "off") == 0
                   ? NULL
                   : dlopen(wanted, RTLD_LAZY | RTLD_LOCAL);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *found = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
        if (found != NULL)
            return found;
    }
    return NULL;
}

static void load(void)
{
    void *from = open_library();
    library *l = &the_library;
    int version[3];
    if (from == NULL)
        return;
    /* By names, so that the module loads where there is no cuBLAS. */
    *(void **)&l->create = dlsym(from, "cublasCreate_v2");
    *(void **)&l->destroy = dlsym(from, "cublasDestroy_v2");
    *(void **)&l->set_stream = dlsym(from, "cublasSetStream_v2");
    *(void **)&l->set_workspace = dlsym(from, "cublasSetWorkspace_v2");
    *(void **)&l->set_math_mode = dlsym(from, "cublasSetMathMode");
    *(void **)&l->property = dlsym(from, "cublasGetProperty");
    *(void **)&l->gemm = dlsym(from, "cublasGemmEx");
    *(void **)&l->status_text = dlsym(from, "cublasGetStatusString");
    /* status_text may be missing: it came with a later version. */
    if (l->create == NULL || l->destroy == NULL || l->set_stream == NULL ||
        l->set_workspace == NULL || l->set_math_mode == NULL ||
        l->property == NULL || l->gemm == NULL)
        return;
    for (int i = 0; i < 3; i++)
        if (l->property(i, &version[i]) != 0)
            return;
    /* Compute types have these numbers from 11 on. */
    if (version[0] < 11)
        return;
    snprintf(l->name, sizeof l->name, "cuBLAS %d.%d.%d", version[0], version[1],
        version[2]);
    is_usable = true;
}

const char *qcublas_name(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    return is_usable ? the_library.name : NULL;
}

/* ---- handles ---- */

static const char *text_of(int status)
{
    if (status == 0)
        return NULL;
    return the_library.status_text != NULL ? the_library.status_text(status)
                                           : "cuBLAS failed";
}

const char *qcublas_open(qcublas **out, void *stream)
{
    *out = NULL;
    if (qcublas_name() == NULL)
        return "there is no cuBLAS";
    qcublas *q = calloc(1, sizeof *q);
    if (q == NULL)
        return "out of memory";
    int status = the_library.create(&q->handle);
    if (status != 0) {
        free(q);
        return text_of(status);
    }
    /* Products must run in the device's own stream, in order with its
     * kernels. */
    status = the_library.set_stream(q->handle, stream);
    if (status == 0)
        status = the_library.set_math_mode(q->handle, MATH_NO_REDUCED_SUMS);
    if (status != 0) {
        qcublas_close(q);
        return text_of(status);
    }
    *out = q;
    return NULL;
}

void qcublas_close(qcublas *q)
{
    if (q == NULL)
        return;
    the_library.destroy(q->handle);
    free(q);
}

/* In: row-by-row operands turned round by the caller.  Bits depend on shape and
 * alignment alone, since the algorithm is the library's default for them. */
const char *qcublas_gemm(qcublas *q, const qdrv_gemm_args *g)
{
    const bool is_bf16 = g->type == QDRV_BF16;
    const int type = is_bf16 ? TYPE_BF16 : TYPE_F32;
    int status = 0;
    /* Work space grows seldom: the library is told only then. */
    if (q->workspace != g->workspace)
        status = the_library.set_workspace(
            q->handle, g->workspace, (size_t)g->workspace_bytes);
    if (status != 0)
        return text_of(status);
    q->workspace = g->workspace;
    return text_of(the_library.gemm(q->handle, OP_T, OP_N, g->m, g->n, g->k,
        &g->alpha, g->a, type, g->a_step, g->b, type, g->b_step, &g->beta, g->c,
        TYPE_F32, g->c_step, is_bf16 ? COMPUTE_F32 : COMPUTE_F32_PEDANTIC,
        DEFAULT_ALGORITHM));
}
