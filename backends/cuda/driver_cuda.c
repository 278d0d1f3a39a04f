/* SPDX-License-Identifier: Apache-2.0
 * driver.h by the CUDA runtime, which is linked statically and looks for the
 * driver (libcuda.so.1) when it is first called: without one there is no
 * device.  In: calls for one device from one thread.  Out: work in one stream,
 * in order.  Free memory of devices nobody has opened is asked of NVML, since a
 * CUDA context on each would itself take memory. */
#include "driver_cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shared memory beyond 48 KiB a block must be asked for (CUDA guide). */
enum { STAGING_BYTES = 16 << 20, FREE_SHARED_BYTES = 48 << 10 };

const char qdrv_backend_name[] = "cuda";

/* ---- finding ---- */

int qdrv_count(char *reason, size_t capacity)
{
    int n = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (capacity != 0)
        reason[0] = '\0';
    /* Success with no device is no device, too. */
    if (status == cudaSuccess && n > 0)
        return n;
    if (status == cudaErrorInsufficientDriver)
        snprintf(reason, capacity,
            "no NVIDIA driver is installed, or it is older than this build "
            "(CUDA %d.%d)",
            CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    else if (status == cudaErrorNoDevice || status == cudaSuccess)
        snprintf(reason, capacity, "the NVIDIA driver has no device");
    else
        snprintf(reason, capacity, "%s", cudaGetErrorString(status));
    return 0;
}

const char *qdrv_describe(qdrv_info *out, int number)
{
    struct cudaDeviceProp p;
    int version = 0;
    *out = (qdrv_info){0};
    cudaError_t status = cudaGetDeviceProperties(&p, number);
    if (status == cudaSuccess)
        status = cudaDriverGetVersion(&version);
    if (status == cudaSuccess)
        status = cudaDeviceGetPCIBusId(out->bus, (int)sizeof out->bus, number);
    if (status != cudaSuccess)
        return cudaGetErrorString(status);
    snprintf(
        out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, p.name);
    out->major = p.major;
    out->minor = p.minor;
    out->n_multiprocessors = p.multiProcessorCount;
    /* What a kernel may get after qdrv_allow_shared. */
    out->max_shared_bytes = (uint32_t)p.sharedMemPerBlockOptin;
    out->total_bytes = p.totalGlobalMem;
    out->l2_bytes = (uint64_t)p.l2CacheSize;
    /* 1 ms to 20 ms by rough estimate (docs/kernels/cuda.md), not measured. */
    out->portion = (double)p.multiProcessorCount * (1 << 28);
    out->driver_version = version;
    return NULL;
}

/* The part of NVML that is used; its ABI is stable.  Struct and numbers are
 * those of nvml.h, which a build need not have. */
typedef struct nvml_memory {
    unsigned long long total, free, used;
} nvml_memory;
typedef struct nvml {
    int (*init)(void);
    int (*by_bus)(const char *bus, void **device);
    int (*memory)(void *device, nvml_memory *memory);
    int (*clock)(void *device, int which, unsigned *mhz);      /* or NULL */
    int (*most_clock)(void *device, int which, unsigned *mhz); /* or NULL */
    bool usable;
} nvml;

static nvml the_nvml;

static void load_nvml(void)
{
    /* As the driver's package installs it; without it, free bytes and clocks
     * are unknown and nothing else changes. */
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return;
    nvml *n = &the_nvml;
    *(void **)&n->init = dlsym(library, "nvmlInit_v2");
    *(void **)&n->by_bus = dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2");
    *(void **)&n->memory = dlsym(library, "nvmlDeviceGetMemoryInfo");
    *(void **)&n->clock = dlsym(library, "nvmlDeviceGetClockInfo");
    *(void **)&n->most_clock = dlsym(library, "nvmlDeviceGetMaxClockInfo");
    n->usable = n->init != NULL && n->by_bus != NULL && n->memory != NULL &&
                n->init() == 0;
}

/* NVML's handle of a device; NULL when there is none. */
static void *nvml_device(const qdrv_info *info)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    void *device = NULL;
    pthread_once(&once, load_nvml);
    if (!the_nvml.usable || the_nvml.by_bus(info->bus, &device) != 0)
        return NULL;
    return device;
}

/* By PCI address: NVML numbers devices otherwise than CUDA. */
bool qdrv_free_bytes_of(uint64_t *out, const qdrv_info *info)
{
    void *device = nvml_device(info);
    nvml_memory memory;
    *out = 0;
    if (device == NULL || the_nvml.memory(device, &memory) != 0)
        return false;
    *out = memory.free;
    return true;
}

bool qdrv_clocks_of(qdrv_clocks *out, const qdrv_info *info)
{
    enum { CLOCK_SM = 1, CLOCK_MEMORY = 2 }; /* nvmlClockType_t */
    void *device = nvml_device(info);
    unsigned mhz[4];
    *out = (qdrv_clocks){0};
    /* All four or none. */
    if (device == NULL || the_nvml.clock == NULL ||
        the_nvml.most_clock == NULL ||
        the_nvml.clock(device, CLOCK_SM, &mhz[0]) != 0 ||
        the_nvml.most_clock(device, CLOCK_SM, &mhz[1]) != 0 ||
        the_nvml.clock(device, CLOCK_MEMORY, &mhz[2]) != 0 ||
        the_nvml.most_clock(device, CLOCK_MEMORY, &mhz[3]) != 0)
        return false;
    *out = (qdrv_clocks){(int)mhz[0], (int)mhz[1], (int)mhz[2], (int)mhz[3]};
    return true;
}

/* ---- opening ---- */

/* Two staging blocks: one is filled while the other is on its way.  A failure
 * leaves zeros, which qdrv_close accepts. */
static cudaError_t open_parts(qdrv_device *d)
{
    cudaError_t status = cudaSetDevice(d->number);
    if (status == cudaSuccess)
        status = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    for (int i = 0; i < N_STAGING && status == cudaSuccess; i++) {
        status = cudaMallocHost(&d->staging[i], STAGING_BYTES);
        if (status == cudaSuccess)
            status =
                cudaEventCreateWithFlags(&d->sent[i], cudaEventDisableTiming);
    }
    return status;
}

const char *qdrv_open(qdrv_device **out, int number, int variation)
{
    (void)variation;
    *out = NULL;
    qdrv_device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return "out of memory";
    d->number = number;
    cudaError_t status = open_parts(d);
    if (status != cudaSuccess) {
        qdrv_close(d);
        return cudaGetErrorString(status);
    }
    *out = d;
    return NULL;
}

void qdrv_close(qdrv_device *d)
{
    if (d == NULL)
        return;
    cudaSetDevice(d->number);
    if (d->stream != NULL)
        cudaStreamSynchronize(d->stream); /* it may still read the staging */
    qcublas_close(d->cublas);
    for (int i = 0; i < N_STAGING; i++) {
        if (d->sent[i] != NULL)
            cudaEventDestroy(d->sent[i]);
        if (d->staging[i] != NULL)
            cudaFreeHost(d->staging[i]);
    }
    if (d->stream != NULL)
        cudaStreamDestroy(d->stream);
    free(d);
}

const char *qdrv_free_bytes(uint64_t *out, qdrv_device *d)
{
    size_t n_free = 0, n_total = 0;
    cudaError_t status = enter(d);
    if (status == cudaSuccess)
        status = cudaMemGetInfo(&n_free, &n_total);
    *out = n_free;
    return text_of(status);
}

/* ---- memory ---- */

const char *qdrv_alloc(void **out, qdrv_device *d, uint64_t n_bytes)
{
    *out = NULL;
    cudaError_t status = enter(d);
    if (status == cudaSuccess)
        /* A block of no bytes gets an address, too: NULL means absent. */
        status = cudaMalloc(out, n_bytes + (n_bytes == 0));
    if (status == cudaErrorMemoryAllocation)
        cudaGetLastError(); /* not sticky: the next call must not see it */
    return text_of(status);
}

/* cudaFree may wait for the device, and may not: what runs could still use the
 * block. */
void qdrv_free(qdrv_device *d, void *data)
{
    if (data == NULL || enter(d) != cudaSuccess)
        return;
    cudaStreamSynchronize(d->stream);
    cudaFree(data);
}

/* Takes the other staging block, which the device may still read. */
static cudaError_t next_staging(qdrv_device *d)
{
    cudaError_t status = cudaEventRecord(d->sent[d->filling], d->stream);
    d->filling = (d->filling + 1) % N_STAGING;
    d->filled = 0;
    return status == cudaSuccess ? cudaEventSynchronize(d->sent[d->filling])
                                 : status;
}

/* Small writes share a block, so that they wait for nothing. */
const char *qdrv_write(
    qdrv_device *d, void *dst, const void *src, uint64_t n_bytes)
{
    /* Cut at the staging blocks; a copy from pinned memory is what runs beside
     * the host. */
    cudaError_t status = enter(d);
    while (n_bytes != 0 && status == cudaSuccess) {
        if (d->filled == STAGING_BYTES)
            status = next_staging(d);
        if (status != cudaSuccess)
            break;
        const size_t room = STAGING_BYTES - d->filled;
        /* The caller may reuse `src` at once: its bytes are in the staging
         * block. */
        const size_t n = n_bytes < room ? (size_t)n_bytes : room;
        char *const block = (char *)d->staging[d->filling] + d->filled;
        memcpy(block, src, n);
        d->filled += (n + 63) / 64 * 64; /* a block is a multiple */
        status =
            cudaMemcpyAsync(dst, block, n, cudaMemcpyHostToDevice, d->stream);
        dst = (char *)dst + n;
        src = (const char *)src + n;
        n_bytes -= n;
    }
    return text_of(status);
}

/* Into pageable memory, so without staging: the host waits anyway. */
const char *qdrv_read(
    qdrv_device *d, void *dst, const void *src, uint64_t n_bytes)
{
    cudaError_t status = enter(d);
    if (status == cudaSuccess && n_bytes != 0)
        status = cudaMemcpyAsync(
            dst, src, n_bytes, cudaMemcpyDeviceToHost, d->stream);
    if (status == cudaSuccess)
        status = cudaStreamSynchronize(d->stream);
    return text_of(status);
}

const char *qdrv_copy(
    qdrv_device *d, void *dst, const void *src, uint64_t n_bytes)
{
    cudaError_t status = enter(d);
    if (status == cudaSuccess && n_bytes != 0)
        status = cudaMemcpyAsync(
            dst, src, n_bytes, cudaMemcpyDeviceToDevice, d->stream);
    return text_of(status);
}

const char *qdrv_zero(qdrv_device *d, void *dst, uint64_t n_bytes)
{
    cudaError_t status = enter(d);
    if (status == cudaSuccess && n_bytes != 0)
        status = cudaMemsetAsync(dst, 0, n_bytes, d->stream);
    return text_of(status);
}

/* ---- launches ---- */

/* Asked once per kernel and device.  A kernel beyond the list is asked for each
 * time. */
cudaError_t qdrv_allow_shared(
    qdrv_device *d, const qcuda_entry *kernel, uint32_t n_bytes)
{
    int most = 0;
    if (n_bytes <= FREE_SHARED_BYTES)
        return cudaSuccess;
    for (int i = 0; i < d->n_large; i++)
        if (d->large[i] == kernel->code)
            return cudaSuccess;
    /* Kernels have no static shared memory to subtract. */
    cudaError_t status = cudaDeviceGetAttribute(
        &most, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->number);
    if (status == cudaSuccess)
        status = cudaFuncSetAttribute(
            kernel->code, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (status == cudaSuccess && d->n_large < MAX_LARGE)
        d->large[d->n_large++] = kernel->code;
    return status;
}

const char *qdrv_launch(qdrv_device *d, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args)
{
    void *arguments[] = {(void *)(uintptr_t)args}; /* read only */
    const dim3 blocks = {grid.x, grid.y, grid.z};
    const dim3 threads = {grid.threads, 1, 1};
    /* The current device is one of the thread, so every call enters first. */
    cudaError_t status = enter(d);
    if (status == cudaSuccess)
        status = qdrv_allow_shared(d, kernel, grid.shared_bytes);
    if (status == cudaSuccess)
        status = cudaLaunchKernel(kernel->code, blocks, threads, arguments,
            grid.shared_bytes, d->stream);
    return text_of(status);
}

const char *qdrv_sync(qdrv_device *d)
{
    cudaError_t status = enter(d);
    if (status == cudaSuccess)
        status = cudaStreamSynchronize(d->stream);
    return text_of(status);
}

/* ---- dense products ---- */

const char *qdrv_gemm_name(void)
{
    return qcublas_name();
}

/* Asked late: a handle takes device memory, and a run without dense products of
 * many tokens needs none. */
bool qdrv_has_gemm(qdrv_device *d)
{
    if (!d->asked_cublas && enter(d) == cudaSuccess) {
        d->asked_cublas = true;
        qcublas_open(&d->cublas, d->stream);
    }
    return d->cublas != NULL;
}

const char *qdrv_gemm(qdrv_device *d, const qdrv_gemm_args *args)
{
    cudaError_t status = enter(d);
    return status == cudaSuccess ? qcublas_gemm(d->cublas, args)
                                 : text_of(status);
}
