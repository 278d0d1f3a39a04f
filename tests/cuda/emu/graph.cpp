/* SPDX-License-Identifier: Apache-2.0
 * Graphs of driver.h on the host.  A graph runs its own copies of nodes and
 * arguments, made when it was created or updated: what the caller failed to
 * update shows in the results, and memory freed since then traps.
 * QMOE_CUDA_EMU_LIMITS, for tests: graphs= (how many there may be at a time),
 * updates= (0: none succeeds). */
#include "driver.h"

#include <new>
#include <stdint.h>
#include <string.h>
#include <vector>

#include "emu_limits.h"

struct node {
    qdrv_node is; /* args: unused */
    std::vector<uint64_t> args;
};

struct qdrv_graph {
    qdrv_device *device;
    std::vector<node> nodes;
};

static uint64_t n_graphs;

static void store(node &to, const qdrv_node &from)
{
    to.is = from;
    to.is.args = nullptr;
    if (from.kernel == nullptr)
        return;
    to.args.resize((from.kernel->args_bytes + 7) / 8);
    memcpy(to.args.data(), from.args, from.kernel->args_bytes);
}

const char *qdrv_graph_create(
    qdrv_graph **out, qdrv_device *device, const qdrv_node *nodes, size_t n)
{
    *out = nullptr;
    if (n_graphs >= emu::limit("graphs=", UINT64_MAX))
        return "no more graphs";
    for (size_t i = 0; i < n; i++)
        if (nodes[i].kernel == nullptr && nodes[i].n_bytes == 0)
            return "a node of a graph moves no bytes";
    qdrv_graph *graph = new (std::nothrow) qdrv_graph;
    if (graph == nullptr || n == 0)
        return "no graph";
    graph->device = device;
    graph->nodes.resize(n);
    for (size_t i = 0; i < n; i++)
        store(graph->nodes[i], nodes[i]);
    n_graphs++;
    *out = graph;
    return nullptr;
}

const char *qdrv_graph_update(
    qdrv_graph *graph, size_t index, const qdrv_node *to)
{
    if (index >= graph->nodes.size() || emu::limit("updates=", 1) == 0)
        return "no such change of a graph";
    const qdrv_node &from = graph->nodes[index].is;
    if (from.kernel != to->kernel || from.n_bytes != to->n_bytes ||
        (from.src == nullptr) != (to->src == nullptr))
        return "a node of a graph cannot become another";
    store(graph->nodes[index], *to);
    return nullptr;
}

static const char *run(qdrv_device *device, const node &n)
{
    if (n.is.kernel != nullptr)
        return qdrv_launch(device, n.is.kernel, n.is.grid, n.args.data());
    if (n.is.src != nullptr)
        return qdrv_copy(device, n.is.dst, n.is.src, n.is.n_bytes);
    return qdrv_zero(device, n.is.dst, n.is.n_bytes);
}

const char *qdrv_graph_launch(qdrv_graph *graph)
{
    for (const node &n : graph->nodes) {
        const char *failure = run(graph->device, n);
        if (failure != nullptr)
            return failure;
    }
    return nullptr;
}

void qdrv_graph_destroy(qdrv_graph *graph)
{
    if (graph == nullptr)
        return;
    n_graphs--;
    delete graph;
}
