/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_cuda.h"

#include <cuda_runtime_api.h>
#include <deque>
#include <map>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "block.h"
#include "memory.h"
#include "toy_steps.h"

enum { SHARED_AT_FIRST = 48 << 10, SHARED_MOST = 99 << 10 };

/* What a stream does. */
struct work {
    enum { KERNEL, COPY, FILL, EVENT } kind;
    const void *code;
    qcuda_grid grid;
    std::vector<uint64_t> args;
    void *dst;
    const void *src;
    size_t n_bytes;
};

bool fake_cuda_is_late;
int fake_cuda_n_attributes, fake_cuda_n_waits;
static std::deque<work> waiting;
static std::map<const void *, int> shared_of; /* kernels allowed more */
static const char *failure = "";
static size_t n_executables;

/* ---- doing ---- */

static const qcuda_entry *entry_of(const void *code)
{
    for (const qcuda_entry *entry : {&qcuda_kernel_toy_step,
             &qcuda_kernel_toy_other, &qcuda_kernel_toy_wide})
        if (entry->code == code)
            return entry;
    abort();
}

static cudaError_t do_work(const work &w)
{
    if (w.kind == work::COPY)
        memcpy(w.dst, w.src, w.n_bytes);
    if (w.kind == work::FILL)
        memset(w.dst, 0, w.n_bytes);
    if (w.kind != work::KERNEL)
        return cudaSuccess;
    const char *text = emu::launch(
        entry_of(w.code), w.grid, w.args.data(), SHARED_MOST, false);
    failure = text != nullptr ? text : "";
    return text != nullptr ? cudaErrorLaunchFailure : cudaSuccess;
}

/* All, or until an event has passed. */
static cudaError_t drain(const void *event)
{
    fake_cuda_n_waits += !waiting.empty();
    while (!waiting.empty()) {
        const work w = waiting.front();
        waiting.pop_front();
        const cudaError_t status = do_work(w);
        if (status != cudaSuccess)
            return status;
        if (event != nullptr && w.kind == work::EVENT && w.dst == event)
            break;
    }
    return cudaSuccess;
}

static cudaError_t enqueue(const work &w)
{
    if (!fake_cuda_is_late)
        return do_work(w);
    waiting.push_back(w);
    return cudaSuccess;
}

static cudaError_t check_shared(const void *code, size_t n_bytes)
{
    const auto found = shared_of.find(code);
    const int most =
        found != shared_of.end() ? found->second : int(SHARED_AT_FIRST);
    return n_bytes <= size_t(most) ? cudaSuccess : cudaErrorInvalidValue;
}

static work kernel_work(
    const void *code, dim3 grid, dim3 block, void **args, size_t shared)
{
    const size_t n_bytes = entry_of(code)->args_bytes;
    work w = {work::KERNEL, code,
        {grid.x, grid.y, grid.z, block.x, uint32_t(shared)},
        std::vector<uint64_t>((n_bytes + 7) / 8), nullptr, nullptr, 0};
    memcpy(w.args.data(), args[0], n_bytes);
    return w;
}

static work move_work(void *dst, const void *src, size_t n_bytes)
{
    return {src != nullptr ? work::COPY : work::FILL, nullptr, {}, {}, dst, src,
        n_bytes};
}

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    *p = cudaDeviceProp();
    p->major = 8;
    p->minor = 6;
    p->multiProcessorCount = 8;
    p->sharedMemPerBlockOptin = SHARED_MOST;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *bus, int capacity, int)
{
    memset(bus, 0, size_t(capacity));
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr which, int)
{
    *value = SHARED_MOST;
    return which == cudaDevAttrMaxSharedMemoryPerBlockOptin
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t status)
{
    return status == cudaErrorLaunchFailure ? failure : "an error";
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    *free = *total = size_t(1) << 30;
    return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **out, size_t n_bytes)
{
    *out = emu::memory_alloc(n_bytes);
    return *out != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *data)
{
    const cudaError_t status = drain(nullptr);
    emu::memory_free(data);
    return status;
}

cudaError_t cudaMallocHost(void **out, size_t n_bytes)
{
    *out = malloc(n_bytes);
    return *out != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *data)
{
    free(data);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(
    void *dst, const void *src, size_t n, cudaMemcpyKind, cudaStream_t)
{
    return enqueue(move_work(dst, src, n));
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t n, cudaStream_t)
{
    if (value != 0)
        return cudaErrorInvalidValue;
    return enqueue(move_work(dst, nullptr, n));
}

/* ---- streams, events, kernels ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = static_cast<cudaStream_t>(malloc(1));
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free(stream);
    return drain(nullptr);
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return drain(nullptr);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = static_cast<cudaEvent_t>(malloc(1));
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    return enqueue({work::EVENT, nullptr, {}, {}, event, nullptr, 0});
}

/* Nothing to wait for when it was not recorded, or has passed. */
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    for (const work &w : waiting)
        if (w.kind == work::EVENT && w.dst == event)
            return drain(event);
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(
    const void *code, cudaFuncAttribute which, int value)
{
    fake_cuda_n_attributes++;
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize ||
        value > SHARED_MOST)
        return cudaErrorInvalidValue;
    shared_of[code] = value;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *code, dim3 grid, dim3 block,
    void **args, size_t shared, cudaStream_t)
{
    const cudaError_t status = check_shared(code, shared);
    return status == cudaSuccess
               ? enqueue(kernel_work(code, grid, block, args, shared))
               : status;
}

/* ---- graphs ---- */

struct CUgraphNode_st {
    size_t at;
};

struct CUgraph_st {
    std::vector<work> all;
    std::deque<CUgraphNode_st> nodes; /* their addresses stay */
};

struct CUgraphExec_st {
    std::vector<work> all;
};

cudaError_t cudaGraphCreate(cudaGraph_t *graph, unsigned)
{
    *graph = new CUgraph_st;
    return cudaSuccess;
}

static cudaError_t add(cudaGraphNode_t *out, cudaGraph_t graph,
    const cudaGraphNode_t *before, size_t n_before, const work &w)
{
    const size_t at = graph->all.size();
    const bool is_chain =
        at == 0 ? n_before == 0 : n_before == 1 && before[0]->at == at - 1;
    if (!is_chain || (w.kind != work::KERNEL && w.n_bytes == 0))
        return cudaErrorInvalidValue;
    graph->all.push_back(w);
    graph->nodes.push_back({at});
    *out = &graph->nodes.back();
    return cudaSuccess;
}

static cudaError_t read_kernel(work *out, const cudaKernelNodeParams *p)
{
    *out = kernel_work(
        p->func, p->gridDim, p->blockDim, p->kernelParams, p->sharedMemBytes);
    return p->extra == nullptr ? check_shared(p->func, p->sharedMemBytes)
                               : cudaErrorInvalidValue;
}

static cudaError_t read_fill(work *out, const cudaMemsetParams *p)
{
    *out = move_work(p->dst, nullptr, p->width);
    return p->elementSize == 1 && p->height == 1 && p->value == 0
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *out, cudaGraph_t graph,
    const cudaGraphNode_t *before, size_t n, const cudaKernelNodeParams *p)
{
    work w;
    const cudaError_t status = read_kernel(&w, p);
    return status == cudaSuccess ? add(out, graph, before, n, w) : status;
}

cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t *out, cudaGraph_t graph,
    const cudaGraphNode_t *before, size_t n, const cudaMemsetParams *p)
{
    work w;
    const cudaError_t status = read_fill(&w, p);
    return status == cudaSuccess ? add(out, graph, before, n, w) : status;
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t *out, cudaGraph_t graph,
    const cudaGraphNode_t *before, size_t n, void *dst, const void *src,
    size_t n_bytes, cudaMemcpyKind kind)
{
    if (kind != cudaMemcpyDeviceToDevice)
        return cudaErrorInvalidValue;
    return add(out, graph, before, n, move_work(dst, src, n_bytes));
}

static size_t limit(const char *name)
{
    const char *text = getenv("QMOE_CUDA_EMU_LIMITS");
    const char *at = text != nullptr ? strstr(text, name) : nullptr;
    return at != nullptr ? strtoul(at + strlen(name), nullptr, 10) : SIZE_MAX;
}

cudaError_t cudaGraphInstantiateWithFlags(
    cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    if (n_executables >= limit("graphs="))
        return cudaErrorMemoryAllocation;
    n_executables++;
    *out = new CUgraphExec_st{graph->all};
    return cudaSuccess;
}

static cudaError_t set(
    cudaGraphExec_t executable, cudaGraphNode_t node, const work &w)
{
    work &old = executable->all.at(node->at);
    if (old.kind != w.kind || old.code != w.code || old.n_bytes != w.n_bytes ||
        limit("updates=") == 0)
        return cudaErrorInvalidValue;
    old = w;
    return cudaSuccess;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t executable,
    cudaGraphNode_t node, const cudaKernelNodeParams *p)
{
    work w;
    const cudaError_t status = read_kernel(&w, p);
    return status == cudaSuccess ? set(executable, node, w) : status;
}

cudaError_t cudaGraphExecMemsetNodeSetParams(
    cudaGraphExec_t executable, cudaGraphNode_t node, const cudaMemsetParams *p)
{
    work w;
    const cudaError_t status = read_fill(&w, p);
    return status == cudaSuccess ? set(executable, node, w) : status;
}

cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t executable,
    cudaGraphNode_t node, void *dst, const void *src, size_t n_bytes,
    cudaMemcpyKind)
{
    return set(executable, node, move_work(dst, src, n_bytes));
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t)
{
    for (const work &w : executable->all) {
        const cudaError_t status = enqueue(w);
        if (status != cudaSuccess)
            return status;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    n_executables--;
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
