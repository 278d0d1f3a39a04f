/* SPDX-License-Identifier: Apache-2.0
 * driver.h on the host: one device with the limits of an sm_86 card.
 * QMOE_CUDA_EMU_LIMITS, for tests: comma-separated memory= (bytes), sms=,
 * shared= (bytes), l2= (bytes), portion= (multiplications) change them.  Dense
 * products are a plain loop, which QMOE_CUBLAS=off takes away as it does
 * cuBLAS. */
#include "driver.h"

#include <inttypes.h>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "emu_limits.h"
#include "memory.h"

using emu::limit;

struct qdrv_device {
    uint32_t max_shared_bytes;
    bool reverse;
};

extern const char qdrv_backend_name[] = "cuda";

int qdrv_count(char *reason, size_t capacity)
{
    if (capacity != 0)
        reason[0] = '\0';
    return 1;
}

uint64_t emu::limit(const char *name, uint64_t normal)
{
    const char *text = getenv("QMOE_CUDA_EMU_LIMITS");
    const char *at = text != nullptr ? strstr(text, name) : nullptr;
    return at != nullptr ? strtoull(at + strlen(name), nullptr, 10) : normal;
}

const char *qdrv_describe(qdrv_info *out, int number)
{
    *out = qdrv_info();
    if (number != 0)
        return "no such device";
    snprintf(out->name, sizeof out->name, "emulated on the host");
    snprintf(out->bus, sizeof out->bus, "none");
    out->major = 8;
    out->minor = 6;
    /* Few, so that products are split in the cases of the harness too. */
    out->n_multiprocessors = int(limit("sms=", 8));
    out->max_shared_bytes = uint32_t(limit("shared=", 99 << 10));
    out->total_bytes = limit("memory=", uint64_t(4) << 30);
    out->l2_bytes = limit("l2=", 1 << 10);
    /* So small that cases of the harness are cut, too. */
    out->portion = double(limit("portion=", 1 << 16));
    return nullptr;
}

bool qdrv_free_bytes_of(uint64_t *out, const qdrv_info *info)
{
    *out = info->total_bytes;
    return true;
}

const char *qdrv_open(qdrv_device **out, int number, int variation)
{
    qdrv_info info;
    *out = nullptr;
    const char *failure = qdrv_describe(&info, number);
    if (failure != nullptr)
        return failure;
    *out = new (std::nothrow)
        qdrv_device{info.max_shared_bytes, (variation / 2) % 2 != 0};
    return *out != nullptr ? nullptr : "out of memory";
}

void qdrv_close(qdrv_device *device)
{
    delete device;
}

const char *qdrv_free_bytes(uint64_t *out, qdrv_device *)
{
    *out = limit("memory=", uint64_t(4) << 30);
    return nullptr;
}

const char *qdrv_alloc(void **out, qdrv_device *, uint64_t n_bytes)
{
    *out = emu::memory_alloc(n_bytes + (n_bytes == 0));
    return *out != nullptr ? nullptr : "out of memory";
}

void qdrv_free(qdrv_device *, void *data)
{
    emu::memory_free(data);
}

const char *qdrv_write(
    qdrv_device *, void *dst, const void *src, uint64_t n_bytes)
{
    memcpy(dst, src, n_bytes);
    return nullptr;
}

const char *qdrv_read(
    qdrv_device *, void *dst, const void *src, uint64_t n_bytes)
{
    memcpy(dst, src, n_bytes);
    return nullptr;
}

const char *qdrv_copy(
    qdrv_device *, void *dst, const void *src, uint64_t n_bytes)
{
    memcpy(dst, src, n_bytes);
    return nullptr;
}

const char *qdrv_zero(qdrv_device *, void *dst, uint64_t n_bytes)
{
    memset(dst, 0, n_bytes);
    return nullptr;
}

const char *qdrv_launch(qdrv_device *device, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args)
{
    return emu::launch(
        kernel, grid, args, device->max_shared_bytes, device->reverse);
}

const char *qdrv_sync(qdrv_device *)
{
    return nullptr;
}

bool qdrv_clocks_of(qdrv_clocks *out, const qdrv_info *)
{
    *out = qdrv_clocks();
    return false;
}

/* ---- dense products ---- */

const char *qdrv_gemm_name(void)
{
    const char *wanted = getenv("QMOE_CUBLAS");
    const bool off = wanted != nullptr && strcmp(wanted, "off") == 0;
    return off ? nullptr : "a loop for cuBLAS";
}

bool qdrv_has_gemm(qdrv_device *)
{
    return qdrv_gemm_name() != nullptr;
}

static float element(const void *matrix, qdrv_element type, int64_t i)
{
    if (type == QDRV_F32)
        return static_cast<const float *>(matrix)[i];
    const uint32_t bits = uint32_t(static_cast<const uint16_t *>(matrix)[i])
                          << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* As driver.h promises to the other side. */
static bool is_aligned(const qdrv_gemm_args *g)
{
    const int64_t size = g->type == QDRV_F32 ? 4 : 2;
    return (uintptr_t(g->a) | uintptr_t(g->b) | uintptr_t(g->c)) % 16 == 0 &&
           (g->a_step * size | g->b_step * size) % 16 == 0;
}

const char *qdrv_gemm(qdrv_device *, const qdrv_gemm_args *g)
{
    if (!is_aligned(g) || g->a_step < g->k || g->b_step < g->k ||
        g->c_step < g->m)
        return "a product's operands are not laid out as they should be";
    if (g->workspace_bytes != 0) /* cuBLAS would use it */
        static_cast<uint8_t *>(g->workspace)[g->workspace_bytes - 1] = 0xff;
    for (int64_t j = 0; j < g->n; j++)
        for (int64_t i = 0; i < g->m; i++) {
            float *c = &g->c[i + j * g->c_step];
            double sum = 0;
            for (int64_t l = 0; l < g->k; l++)
                sum += double(element(g->a, g->type, l + i * g->a_step)) *
                       element(g->b, g->type, l + j * g->b_step);
            *c = g->alpha * float(sum) + (g->beta != 0 ? g->beta * *c : 0.0f);
        }
    return nullptr;
}
