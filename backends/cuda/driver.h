/* SPDX-License-Identifier: Apache-2.0
 * What the backend needs of a CUDA driver, and nothing else.  Two
 * implementations: driver_cuda.c (the CUDA runtime, module qmoe-cuda.so) and
 * emu/driver_emu.cpp (the host, the module of that name that tests load).  A
 * function that can fail returns NULL or a static text that says why.  One
 * device is used by one thread at a time; everything given to a device is done
 * in order. */
#ifndef QCUDA_DRIVER_H
#define QCUDA_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A compiled kernel: every kernel takes one struct by value. */
typedef struct qcuda_entry {
    const char *name;
    const void *code; /* what the driver launches */
    size_t args_bytes;
    int max_threads; /* of a block */
} qcuda_entry;

/* Sizes of a launch.  Blocks are one-dimensional, whole warps; all shared
 * memory is dynamic. */
typedef struct qcuda_grid {
    uint32_t x, y, z; /* blocks */
    uint32_t threads;
    uint32_t shared_bytes;
} qcuda_grid;

typedef struct qdrv_info {
    char name[128];
    char bus[32]; /* PCI address */
    int major, minor;
    int n_multiprocessors;
    uint32_t max_shared_bytes; /* of a block, after opting in */
    uint64_t total_bytes;
    uint64_t l2_bytes;
    double portion; /* multiplications that are launched at once: portions.h */
    int driver_version; /* 13000 = 13.0 */
} qdrv_info;

typedef struct qdrv_device qdrv_device;

/* "cuda": the program knows both by this name. */
extern const char qdrv_backend_name[];

/* Devices the driver knows; 0 and the reason when there is none. */
int qdrv_count(char *reason, size_t capacity);
const char *qdrv_describe(qdrv_info *out, int number);
/* Bytes free on a device without opening it; false when nobody says. */
bool qdrv_free_bytes_of(uint64_t *out, const qdrv_info *info);

/* `variation`: any number; what may vary between correct runs does (the order
 * in which the emulator runs threads).  Ignored by hardware. */
const char *qdrv_open(qdrv_device **out, int number, int variation);
void qdrv_close(qdrv_device *device);
const char *qdrv_free_bytes(uint64_t *out, qdrv_device *device);

/* Device memory, aligned to 16 bytes at least (256 on hardware). */
const char *qdrv_alloc(void **out, qdrv_device *device, uint64_t n_bytes);
/* Waits for what was given to the device before. */
void qdrv_free(qdrv_device *device, void *data);

/* `src` may be reused when it returns; large blocks go through pinned staging
 * buffers that are filled while the one before is on its way. */
const char *qdrv_write(
    qdrv_device *device, void *dst, const void *src, uint64_t n_bytes);
/* Returns when the bytes are there. */
const char *qdrv_read(
    qdrv_device *device, void *dst, const void *src, uint64_t n_bytes);
/* Within the device. */
const char *qdrv_copy(
    qdrv_device *device, void *dst, const void *src, uint64_t n_bytes);
const char *qdrv_zero(qdrv_device *device, void *dst, uint64_t n_bytes);
const char *qdrv_launch(qdrv_device *device, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args);
/* Waits; an error of an earlier launch surfaces here at the latest. */
const char *qdrv_sync(qdrv_device *device);

/* ---- clocks ---- */

typedef struct qdrv_clocks {
    int now_mhz, most_mhz;               /* of the multiprocessors */
    int memory_now_mhz, memory_most_mhz; /* 0: nobody says */
} qdrv_clocks;
/* As they are at this moment; false when nobody says. */
bool qdrv_clocks_of(qdrv_clocks *out, const qdrv_info *info);

/* ---- dense products (driver_cublas.c; the emulator: a plain loop) ---- */

typedef enum qdrv_element { QDRV_F32, QDRV_BF16 } qdrv_element;

/* c = alpha a^T b + beta c, in float32 at least, as BLAS has it: matrices lie
 * column by column, `step` elements from one column to the next.  a is [k, m],
 * b [k, n], both of `type`, c [m, n] of f32.  All begin at multiples of 16
 * bytes, as do columns of a and b.  beta 0: c is not read. */
typedef struct qdrv_gemm_args {
    qdrv_element type;
    const void *a, *b;
    float *c;
    int32_t m, n, k;
    int32_t a_step, b_step, c_step;
    float alpha, beta;
    /* Device memory that the product may use until the next with another. */
    void *workspace;
    uint64_t workspace_bytes;
} qdrv_gemm_args;

/* What does them, e.g. "cuBLAS 13.1.0"; NULL: there is nothing.  Looked for
 * when first asked, once per process. */
const char *qdrv_gemm_name(void);
/* Whether it works on this device; found out when first asked. */
bool qdrv_has_gemm(qdrv_device *device);
/* For a device that has it; in order with launches. */
const char *qdrv_gemm(qdrv_device *device, const qdrv_gemm_args *args);

/* ---- graphs ---- */

/* A launch, a copy within the device, or a fill with zeros. */
typedef struct qdrv_node {
    const qcuda_entry *kernel; /* NULL: a copy or a fill */
    qcuda_grid grid;
    const void *args; /* read only while the function runs */
    void *dst;
    const void *src;  /* NULL: a fill */
    uint64_t n_bytes; /* > 0 */
} qdrv_node;

typedef struct qdrv_graph qdrv_graph;

/* A graph that runs n >= 1 nodes one after another.  The device must outlive
 * it. */
const char *qdrv_graph_create(
    qdrv_graph **out, qdrv_device *device, const qdrv_node *nodes, size_t n);
/* From the next launch on, node `index` has another grid and arguments, or
 * other addresses; kernel and n_bytes stay.  After an error the graph must not
 * be launched. */
const char *qdrv_graph_update(
    qdrv_graph *graph, size_t index, const qdrv_node *node);
/* Behind all that was given to the device before. */
const char *qdrv_graph_launch(qdrv_graph *graph);
/* A launch that still runs is not disturbed.  Accepts NULL. */
void qdrv_graph_destroy(qdrv_graph *graph);

#ifdef __cplusplus
}
#endif

#endif
