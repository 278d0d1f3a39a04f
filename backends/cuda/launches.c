/* SPDX-License-Identifier: Apache-2.0
 * Launch runs (launches.h): held back, compared, replayed or issued.  In:
 * launches, copies and fills in order.  Out: the same work in the same order,
 * at once or as one graph.  At every moment either nothing of the current run
 * was issued (`held`) or all of it, so that a departure needs no undoing: what
 * is held is issued and the rest follows. */
#include "launches.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "qcuda_device.h"
#include "launch_list.h"

/* A launch run that differs in more than a quarter of its launches is another
 * one: runs that alternate, like steps of different batches, keep a graph
 * each. */
enum { CHANGED_SHARE = 4 };

/* A recorded launch run. */
typedef struct recorded {
    qcuda_list list;   /* and what the graph holds */
    qdrv_graph *graph; /* NULL: run once so far */
    uint64_t used;     /* when last; 0: an empty place */
    bool follows;      /* the current run repeats it so far, */
    size_t n_changed;  /* with so many differences */
} recorded;

struct qcuda_launches {
    qdrv_device *driver;
    bool enabled;
    bool held;      /* nothing of the current run was issued; else all of it */
    bool loose;     /* the rest of it is issued and not recorded */
    qcuda_list run; /* the current one */
    recorded recorded[QCUDA_MAX_LISTS];
    uint64_t clock;
    qmi_error failure; /* not yet told */
    qmi_launch_counts counts;
};

/* ---- creation ---- */

qmoe_status qcuda_launches_create(
    qcuda_launches **out, qdrv_device *driver, qmi_error *err)
{
    const char *wish = getenv("QMOE_CUDA_GRAPHS");
    *out = NULL;
    if (wish != NULL && strcmp(wish, "on") != 0 && strcmp(wish, "off") != 0)
        return qmi_fail(err, QMOE_E_INVALID,
            "QMOE_CUDA_GRAPHS is '%s', must be on or off", wish);
    qcuda_launches *l = qmi_calloc(1, sizeof *l, "launches", err);
    if (l == NULL)
        return QMOE_E_NOMEM;
    l->driver = driver;
    /* Read once per device, so that a run cannot change its ways halfway. */
    l->enabled = wish == NULL || strcmp(wish, "off") != 0;
    /* Loose: issue, do not record. */
    l->loose = !l->enabled;
    *out = l;
    return QMOE_OK;
}

static void drop_graph(recorded *n)
{
    qdrv_graph_destroy(n->graph);
    n->graph = NULL;
}

/* Forgets the current run and all recorded ones.  What follows up to the next
 * end of a run is issued directly. */
static void forget(qcuda_launches *l)
{
    for (int i = 0; i < QCUDA_MAX_LISTS; i++) {
        drop_graph(&l->recorded[i]);
        l->recorded[i].used = 0;
    }
    l->run.n = 0;
    l->held = false;
    l->loose = true;
}

void qcuda_launches_destroy(qcuda_launches *launches)
{
    if (launches == NULL)
        return;
    forget(launches);
    for (int i = 0; i < QCUDA_MAX_LISTS; i++)
        qcuda_list_free(&launches->recorded[i].list);
    qcuda_list_free(&launches->run);
    qmi_free(launches);
}

/* ---- issuing ---- */

static const char *name_of(const qdrv_node *node)
{
    if (node->kernel != NULL)
        return node->kernel->name;
    return node->src != NULL ? "a copy" : "a fill";
}

/* After an error nothing that was recorded is used again. */
static qmoe_status fail(
    qmi_device *device, const char *what, const char *text, qmi_error *err)
{
    qmoe_status status = qcuda_fail(device, what, text, err);
    forget(device->launches);
    return status;
}

/* A failure is told with the kernel's name, though it may be an earlier
 * kernel's: the driver reports late. */
static qmoe_status issue(
    qmi_device *device, const qdrv_node *node, qmi_error *err)
{
    const char *failure;
    if (node->kernel != NULL)
        failure =
            qdrv_launch(device->driver, node->kernel, node->grid, node->args);
    else if (node->src != NULL)
        failure =
            qdrv_copy(device->driver, node->dst, node->src, node->n_bytes);
    else
        failure = qdrv_zero(device->driver, node->dst, node->n_bytes);
    if (failure != NULL)
        return fail(device, name_of(node), failure, err);
    device->launches->counts.single++;
    return QMOE_OK;
}

static qmoe_status issue_held(qmi_device *device, qmi_error *err)
{
    qcuda_launches *l = device->launches;
    /* First, so that a failure in the middle does not issue the begin again. */
    l->held = false;
    for (size_t i = 0; i < l->run.n; i++)
        QMI_TRY(issue(device, &l->run.nodes[i], err));
    return QMOE_OK;
}

/* ---- graphs ---- */

/* Compares the last node of the current run.  Can it still be held back? */
static bool follow(qcuda_launches *l)
{
    /* Every recorded run is followed at once: which of them this run repeats
     * shows at its end.  The cost is one comparison per run and launch. */
    const size_t at = l->run.n - 1;
    bool any = false;
    for (int i = 0; i < QCUDA_MAX_LISTS; i++) {
        recorded *n = &l->recorded[i];
        /* A new run: all that is recorded may be it. */
        if (at == 0) {
            n->follows = n->used != 0;
            n->n_changed = 0;
        }
        if (!n->follows)
            continue;
        n->follows = at < n->list.n &&
                     qcuda_same_kind(&l->run.nodes[at], &n->list.nodes[at]);
        if (n->follows &&
            !qcuda_same_values(&l->run.nodes[at], &n->list.nodes[at]))
            /* Too many changes: updating a graph costs per node, and another
             * recorded run may fit better. */
            n->follows = ++n->n_changed <= n->list.n / CHANGED_SHARE;
        any = any || n->follows;
    }
    return any;
}

/* The recorded run that the held one has repeated with the fewest changes. */
static recorded *repeated(qcuda_launches *l)
{
    recorded *best = NULL;
    for (int i = 0; i < QCUDA_MAX_LISTS && l->held; i++) {
        recorded *n = &l->recorded[i];
        /* As long as this one: a run that ended early is another one. */
        if (n->follows && n->list.n == l->run.n &&
            (best == NULL || n->n_changed < best->n_changed))
            best = n;
    }
    return best;
}

/* Replaces what changed. */
static const char *update(qcuda_launches *l, recorded *n)
{
    for (size_t i = 0; i < l->run.n; i++) {
        /* The graph holds what n->list says, so the rest is as it was. */
        if (qcuda_same_values(&l->run.nodes[i], &n->list.nodes[i]))
            continue;
        const char *failure = qdrv_graph_update(n->graph, i, &l->run.nodes[i]);
        if (failure != NULL)
            return failure;
        l->counts.updated++;
    }
    return NULL;
}

/* Makes the graph equal to the current run.  False: it must be issued, and
 * makes do without graphs from now on if none can be made at all. */
static bool prepare(qcuda_launches *l, recorded *n)
{
    if (n->graph == NULL) {
        /* A driver that cannot make one graph will make no other. */
        if (qdrv_graph_create(&n->graph, l->driver, l->run.nodes, l->run.n) !=
            NULL) {
            n->graph = NULL;
            l->enabled = false;
            return false;
        }
        l->counts.made++;
    } else if (update(l, n) != NULL) {
        /* A failed update leaves the graph unusable; the next time makes
         * one. */
        drop_graph(n);
        return false;
    }
    /* The lists change places: the graph now holds the current run, and the old
     * list's memory serves the next one. */
    const qcuda_list now = l->run;
    l->run = n->list;
    n->list = now;
    return true;
}

static qmoe_status replay(qmi_device *device, recorded *n, qmi_error *err)
{
    qcuda_launches *l = device->launches;
    /* Used, even when it must be issued: it was repeated. */
    n->used = ++l->clock;
    if (!prepare(l, n))
        return issue_held(device, err);
    const char *failure = qdrv_graph_launch(n->graph);
    if (failure != NULL) {
        /* A graph fails as a whole: the first and the last launch say which. */
        const qcuda_list *all = &n->list;
        char what[160];
        snprintf(what, sizeof what, "a graph of %zu launches, %s to %s", all->n,
            name_of(&all->nodes[0]), name_of(&all->nodes[all->n - 1]));
        return fail(device, what, failure, err);
    }
    l->counts.graphs++;
    l->counts.replayed += n->list.n;
    return QMOE_OK;
}

/* Records the current run in place of the least recently used one. */
static void note(qcuda_launches *l)
{
    recorded *oldest = &l->recorded[0];
    /* An empty place has used = 0 and so goes first. */
    for (int i = 1; i < QCUDA_MAX_LISTS; i++)
        if (l->recorded[i].used < oldest->used)
            oldest = &l->recorded[i];
    drop_graph(oldest);
    const qcuda_list now = l->run;
    l->run = oldest->list;
    oldest->list = now;
    oldest->used = ++l->clock;
}

/* ---- launch runs ---- */

/* An error that nobody could be told of is the next call's, once. */
static qmoe_status tell(qcuda_launches *l, qmi_error *err)
{
    const qmoe_status status = l->failure.status;
    if (status == QMOE_OK)
        return QMOE_OK;
    qmi_fail(err, status, "%s", l->failure.text);
    l->failure.status = QMOE_OK;
    return status;
}

/* Issues or replays what is held; records a new run. */
static qmoe_status settle(qmi_device *device, qmi_error *err)
{
    qcuda_launches *l = device->launches;
    recorded *n = repeated(l);
    if (n != NULL)
        return replay(device, n, err);
    /* What was repeated only in part is issued; it is recorded as a run of its
     * own, if it is long enough to be worth a graph. */
    if (l->held)
        QMI_TRY(issue_held(device, err));
    if (!l->loose && l->run.n >= QCUDA_MIN_NODES)
        note(l);
    return QMOE_OK;
}

qmoe_status qcuda_end_run(qmi_device *device, qmi_error *err)
{
    qcuda_launches *l = device->launches;
    qmoe_status status = tell(l, err);
    if (status == QMOE_OK)
        status = settle(device, err);
    /* Whatever came of it, the next launch begins a run. */
    l->run.n = 0;
    l->held = false;
    l->loose = !l->enabled;
    return status;
}

qmoe_status qcuda_flush(qmi_device *device, qmi_error *err)
{
    qcuda_launches *l = device->launches;
    l->loose = true;
    qmoe_status status = qcuda_end_run(device, err);
    /* end_run has reset it, but the host's work goes on in the middle. */
    l->loose = true;
    return status;
}

void qcuda_flush_quietly(qmi_device *device)
{
    qmi_error err = {0};
    if (qcuda_flush(device, &err) != QMOE_OK)
        device->launches->failure = err;
}

static qmoe_status give(
    qmi_device *device, const qdrv_node *node, qmi_error *err)
{
    qcuda_launches *l = device->launches;
    QMI_TRY(tell(l, err));
    /* What cannot be recorded ends the run, and is then issued. */
    if (!l->loose && !qcuda_list_add(&l->run, node))
        QMI_TRY(qcuda_flush(device, err));
    if (l->loose)
        return issue(device, node, err);
    /* The first launch of a run may always be held; a run of which something
     * was issued never is again. */
    const bool was_held = l->held || l->run.n == 1;
    l->held = was_held && follow(l);
    if (l->held)
        return QMOE_OK;
    /* Held so far, but it departs now: this node is issued with the rest. */
    return was_held ? issue_held(device, err) : issue(device, node, err);
}

qmoe_status qcuda_launch(qmi_device *device, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args, qmi_error *err)
{
    /* The driver refuses empty grids; no blocks is no work. */
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return QMOE_OK;
    const qdrv_node node = {.kernel = kernel, .grid = grid, .args = args};
    return give(device, &node, err);
}

qmoe_status qcuda_copy(qmi_device *device, void *dst, const void *src,
    uint64_t n_bytes, qmi_error *err)
{
    const qdrv_node node = {.dst = dst, .src = src, .n_bytes = n_bytes};
    return n_bytes == 0 ? QMOE_OK : give(device, &node, err);
}

qmoe_status qcuda_zero(
    qmi_device *device, void *dst, uint64_t n_bytes, qmi_error *err)
{
    const qdrv_node node = {.dst = dst, .n_bytes = n_bytes};
    return n_bytes == 0 ? QMOE_OK : give(device, &node, err);
}

void qcuda_launch_counts(const qmi_device *device, qmi_launch_counts *out)
{
    *out = device->launches->counts;
}
