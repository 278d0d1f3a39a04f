/* SPDX-License-Identifier: Apache-2.0
 * Graphs of driver.h by the CUDA runtime; its calls are as old as CUDA 11.4.
 * In: launches, copies and fills in order.  Out: one object that runs them in
 * that order.  Errors leave the runtime as if the call had not been made, since
 * the caller can issue the launches one by one instead. */
#include "driver_cuda.h"

#include <stdlib.h>

struct qdrv_graph {
    qdrv_device *device;
    cudaGraph_t graph; /* its nodes name those of `exec` */
    cudaGraphExec_t exec;
    size_t n;
    cudaGraphNode_t nodes[];
};

/* `arguments` holds the one argument as long as the result is used. */
static struct cudaKernelNodeParams kernel_params(
    const qdrv_node *node, void **arguments)
{
    const qcuda_grid *g = &node->grid;
    arguments[0] = (void *)(uintptr_t)node->args; /* read only */
    return (struct cudaKernelNodeParams){
        .func = (void *)(uintptr_t)node->kernel->code,
        .gridDim = {g->x, g->y, g->z},
        .blockDim = {g->threads, 1, 1},
        .sharedMemBytes = g->shared_bytes,
        .kernelParams = arguments,
    };
}

static struct cudaMemsetParams fill_params(const qdrv_node *node)
{
    return (struct cudaMemsetParams){
        .dst = node->dst,
        .elementSize = 1,
        .width = node->n_bytes,
        .height = 1,
    };
}

/* Behind the node before: a chain, as the stream would have run it. */
static cudaError_t add_node(qdrv_graph *g, size_t i, const qdrv_node *node)
{
    const cudaGraphNode_t *before = i != 0 ? &g->nodes[i - 1] : NULL;
    const size_t n_before = i != 0;
    void *arguments[1];
    if (node->kernel == NULL && node->src != NULL)
        return cudaGraphAddMemcpyNode1D(&g->nodes[i], g->graph, before,
            n_before, node->dst, node->src, node->n_bytes,
            cudaMemcpyDeviceToDevice);
    if (node->kernel == NULL) {
        const struct cudaMemsetParams params = fill_params(node);
        return cudaGraphAddMemsetNode(
            &g->nodes[i], g->graph, before, n_before, &params);
    }
    /* As for a single launch. */
    cudaError_t status =
        qdrv_allow_shared(g->device, node->kernel, node->grid.shared_bytes);
    if (status != cudaSuccess)
        return status;
    const struct cudaKernelNodeParams params = kernel_params(node, arguments);
    return cudaGraphAddKernelNode(
        &g->nodes[i], g->graph, before, n_before, &params);
}

/* What was made before a failure is destroyed by the caller. */
static cudaError_t make(qdrv_graph *g, const qdrv_node *nodes)
{
    cudaError_t status = enter(g->device);
    if (status == cudaSuccess)
        status = cudaGraphCreate(&g->graph, 0);
    for (size_t i = 0; i < g->n && status == cudaSuccess; i++)
        status = add_node(g, i, &nodes[i]);
    if (status == cudaSuccess)
        status = cudaGraphInstantiateWithFlags(&g->exec, g->graph, 0);
    return status;
}

/* What failed is told by its status; the next call must not see it. */
static const char *refused(cudaError_t status)
{
    if (status != cudaSuccess)
        cudaGetLastError();
    return text_of(status);
}

const char *qdrv_graph_create(
    qdrv_graph **out, qdrv_device *device, const qdrv_node *nodes, size_t n)
{
    *out = NULL;
    qdrv_graph *g = calloc(1, sizeof *g + n * sizeof *g->nodes);
    if (g == NULL)
        return "out of memory";
    g->device = device;
    g->n = n;
    cudaError_t status = make(g, nodes);
    if (status != cudaSuccess) {
        qdrv_graph_destroy(g);
        return refused(status);
    }
    *out = g;
    return NULL;
}

/* The node's kind is that of the one it replaces (qcuda_same_kind), so each
 * branch sets what add_node made. */
static cudaError_t set_node(
    qdrv_graph *g, cudaGraphNode_t at, const qdrv_node *node)
{
    void *arguments[1];
    if (node->kernel == NULL && node->src != NULL)
        return cudaGraphExecMemcpyNodeSetParams1D(g->exec, at, node->dst,
            node->src, node->n_bytes, cudaMemcpyDeviceToDevice);
    if (node->kernel == NULL) {
        const struct cudaMemsetParams params = fill_params(node);
        return cudaGraphExecMemsetNodeSetParams(g->exec, at, &params);
    }
    cudaError_t status =
        qdrv_allow_shared(g->device, node->kernel, node->grid.shared_bytes);
    if (status != cudaSuccess)
        return status;
    const struct cudaKernelNodeParams params = kernel_params(node, arguments);
    return cudaGraphExecKernelNodeSetParams(g->exec, at, &params);
}

const char *qdrv_graph_update(
    qdrv_graph *graph, size_t index, const qdrv_node *node)
{
    cudaError_t status = enter(graph->device);
    if (status == cudaSuccess)
        status = set_node(graph, graph->nodes[index], node);
    return refused(status);
}

/* Into the device's stream, so it is in order with single launches. */
const char *qdrv_graph_launch(qdrv_graph *graph)
{
    cudaError_t status = enter(graph->device);
    if (status == cudaSuccess)
        status = cudaGraphLaunch(graph->exec, graph->device->stream);
    return text_of(status);
}

/* A running launch keeps what it needs; the handle can go. */
void qdrv_graph_destroy(qdrv_graph *graph)
{
    if (graph == NULL)
        return;
    if (enter(graph->device) == cudaSuccess) {
        if (graph->exec != NULL)
            cudaGraphExecDestroy(graph->exec);
        if (graph->graph != NULL)
            cudaGraphDestroy(graph->graph);
    }
    free(graph);
}
