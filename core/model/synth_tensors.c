/* SPDX-License-Identifier: Apache-2.0
 * Tensors of a synthetic checkpoint: names and shapes, address space, and
 * values on demand.  In: a configuration and a seed.  Out: a tensor file whose
 * values are made when they are first asked for.  A value depends on seed,
 * tensor name and place alone, so every part can be made, dropped and made
 * again, by any thread, with the same bits. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "alloc.h"
#include "available_memory.h"
#include "cancel.h"
#include "expert_names.h"
#include "hash.h"
#include "model.h"
#include "synth.h"

/* Levels: as many as 16 random bits tell apart. */
enum { PAGE = 4096, N_LEVELS = 1 << 16 };

/* What a tensor's values are; one per tensor. */
typedef struct law {
    float spread; /* standard deviation; 0: all ones */
    bool is_expert;
} law;

/* `own` of the file. */
typedef struct source {
    qmi_synth synth;
    law *laws;              /* [n_tensors] */
    _Atomic(bool) *is_made; /* [n_tensors] all of it is in memory */
    size_t capacity;
    uint64_t n_bytes; /* address space given out so far */
} source;

/* ---- the list ---- */

typedef struct lister {
    qmi_tensor_file *file;
    source *source;
    qmi_error *err;
    qmoe_status status; /* of the first failure */
    char prefix[96];
} lister;

/* Both lists grow, or neither counts: capacity is set last. */
static qmoe_status make_room(lister *l)
{
    qmi_tensor_file *file = l->file;
    source *s = l->source;
    if (file->n_tensors < s->capacity)
        return QMOE_OK;
    size_t capacity = s->capacity == 0 ? 256 : 2 * s->capacity;
    qmi_tensor *tensors = qmi_regrow(file->tensors, file->n_tensors, capacity,
        sizeof *tensors, "the tensor list", l->err);
    if (tensors == NULL)
        return QMOE_E_NOMEM;
    file->tensors = tensors;
    law *laws = qmi_regrow(s->laws, file->n_tensors, capacity, sizeof *laws,
        "the tensor list", l->err);
    if (laws == NULL)
        return QMOE_E_NOMEM;
    s->laws = laws;
    s->capacity = capacity;
    return QMOE_OK;
}

static qmoe_status add_tensor(
    lister *l, const char *name, int64_t n_rows, int64_t n_cols, law values)
{
    QMI_TRY(make_room(l));
    qmi_tensor_file *file = l->file;
    const char *kept = qmi_tensor_file_keep(file, name, l->err);
    if (kept == NULL)
        return QMOE_E_NOMEM;
    /* bf16: two bytes each.  Dimensions are those of published models, so
     * nothing overflows. */
    uint64_t n_bytes = (uint64_t)n_rows * (uint64_t)n_cols * 2;
    qmi_tensor *t = &file->tensors[file->n_tensors];
    *t = (qmi_tensor){.name = kept,
        .dtype = QMI_BF16,
        .rank = n_rows == 1 ? 1 : 2,
        .shape = {n_rows == 1 ? n_cols : n_rows, n_cols},
        /* An offset until there is address space. */
        .data = (const uint8_t *)(uintptr_t)l->source->n_bytes,
        .n_bytes = n_bytes,
        .is_view = values.is_expert};
    l->source->laws[file->n_tensors++] = values;
    /* On pages of its own, so that it can be given back alone. */
    l->source->n_bytes += (n_bytes + PAGE - 1) / PAGE * PAGE;
    return QMOE_OK;
}

/* A tensor named `prefix` + name; nothing after a failure. */
static void add(lister *l, int64_t n_rows, int64_t n_cols, law values,
    const char *format, ...)
{
    char name[320];
    va_list arguments;
    size_t n = (size_t)snprintf(name, sizeof name, "%s", l->prefix);
    va_start(arguments, format);
    vsnprintf(name + n, sizeof name - n, format, arguments);
    va_end(arguments);
    if (l->status == QMOE_OK)
        l->status = add_tensor(l, name, n_rows, n_cols, values);
}

/* Sums of `width` products keep the size of their inputs. */
static law spread(int64_t width)
{
    return (law){.spread = 1.0f / sqrtf((float)width)};
}

static void add_attention(lister *l, const char *kind)
{
    const qmi_switch_config *c = &l->source->synth.config;
    int64_t inner = c->n_heads * c->d_kv;
    add(l, 1, c->d_model, (law){0}, "layer_norm.weight");
    /* T5 has no scale in attention: its queries are smaller by the root of
     * d_kv. */
    add(l, inner, c->d_model, spread(c->d_model * c->d_kv), "%s.q.weight",
        kind);
    add(l, inner, c->d_model, spread(c->d_model), "%s.k.weight", kind);
    add(l, inner, c->d_model, spread(c->d_model), "%s.v.weight", kind);
    add(l, c->d_model, inner, spread(inner), "%s.o.weight", kind);
}

/* The router first, as it is used; experts as one tensor each, as published. */
static void add_experts(lister *l)
{
    const qmi_switch_config *c = &l->source->synth.config;
    law wi = spread(c->d_model), wo = spread(c->d_ff);
    wi.is_expert = wo.is_expert = true;
    add(l, c->n_experts, c->d_model, spread(c->d_model),
        "mlp.router.classifier.weight");
    for (int64_t e = 0; e < c->n_experts; e++) {
        add(l, c->d_ff, c->d_model, wi,
            "mlp.experts.expert_%" PRId64 ".wi.weight", e);
        add(l, c->d_model, c->d_ff, wo,
            "mlp.experts.expert_%" PRId64 ".wo.weight", e);
    }
}

static void add_ffn(lister *l, int stack, int64_t block)
{
    const qmi_switch_config *c = &l->source->synth.config;
    int64_t step = c->sparse_step[stack];
    add(l, 1, c->d_model, (law){0}, "layer_norm.weight");
    /* As qmi_switch_is_sparse: a checkpoint must match its own
     * configuration. */
    if (step == 1 || (step > 1 && block % step == 1)) {
        add_experts(l);
        return;
    }
    add(l, c->d_ff, c->d_model, spread(c->d_model), "mlp.wi.weight");
    add(l, c->d_model, c->d_ff, spread(c->d_ff), "mlp.wo.weight");
}

static void add_block(lister *l, int stack, int64_t block)
{
    const qmi_switch_config *c = &l->source->synth.config;
    const char *name = stack == QMI_SWITCH_ENCODER ? "encoder" : "decoder";
    size_t n = sizeof l->prefix;
    int layer = 0;
    /* One buffer for the prefix of a layer; names are built behind it. */
    snprintf(l->prefix, n, "%s.block.%d.layer.%d.", name, (int)block, layer++);
    add_attention(l, "SelfAttention");
    if (block == 0)
        add(l, 32, c->n_heads, spread(c->d_model),
            "SelfAttention.relative_attention_bias.weight");
    if (stack == QMI_SWITCH_DECODER) {
        snprintf(
            l->prefix, n, "%s.block.%d.layer.%d.", name, (int)block, layer++);
        add_attention(l, "EncDecAttention");
    }
    snprintf(l->prefix, n, "%s.block.%d.layer.%d.", name, (int)block, layer);
    add_ffn(l, stack, block);
    /* Names behind the last block begin anew. */
    l->prefix[0] = '\0';
}

static qmoe_status list_switch(lister *l)
{
    static const char *const norms[QMI_SWITCH_STACKS] = {
        "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight"};
    const qmi_switch_config *c = &l->source->synth.config;
    add(l, c->vocab_size, c->d_model, spread(1), "shared.weight");
    for (int stack = 0; stack < QMI_SWITCH_STACKS; stack++) {
        for (int64_t b = 0; b < c->n_blocks[stack]; b++)
            add_block(l, stack, b);
        add(l, 1, c->d_model, (law){0}, "%s", norms[stack]);
    }
    if (!c->tied_head)
        add(l, c->vocab_size, c->d_model, spread(c->d_model), "lm_head.weight");
    return l->status;
}

/* Every weight that the model of this configuration has: no list of names and
 * shapes beside that of its architecture. */
static void list_weights(lister *l, const qmoe_model *model)
{
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        law values = spread(w->n_cols);
        if (w->role == QMOE_ROLE_EMBEDDING)
            values = spread(1);
        if (w->role == QMOE_ROLE_NORM)
            values = (law){0};
        values.is_expert = w->source != NULL;
        for (int64_t e = 0; e < w->n_mats; e++) {
            char name[256];
            snprintf(name, sizeof name, "%s", w->name);
            if (w->source != NULL)
                qmi_expert_tensor(name, sizeof name, w->source, e);
            add(l, w->n_rows, w->n_cols, values, "%s", name);
        }
    }
}

static qmoe_status list_decoder(lister *l)
{
    const qmi_synth *synth = &l->source->synth;
    /* A sketch reports to hooks of its own, and keeps nothing of them. */
    qmi_hooks hooks = {.n_threads = 1, .n_users = 1};
    qmoe_model *model = NULL;
    cJSON *config = qmi_synth_config(synth);
    if (config == NULL)
        return qmi_fail(l->err, QMOE_E_NOMEM, "out of memory: a configuration");
    qmoe_status status =
        qmi_model_sketch(&model, &hooks, config, l->file->path);
    cJSON_Delete(config);
    if (status != QMOE_OK)
        return qmi_fail(l->err, status, "%s", hooks.error.text);
    list_weights(l, model);
    qmoe_model_close(model);
    return l->status;
}

/* ---- values ---- */

/* Quantiles of the normal distribution, by Newton's method from the previous
 * one: (level + 1/2) / N_LEVELS. */
static float quantiles[N_LEVELS];

static void make_quantiles(void)
{
    /* Height of the density at 0: 1 / sqrt(2 pi). */
    const double root = sqrt(2.0), height = 1 / sqrt(8 * atan(1.0));
    double z = 0;
    /* The upper half; the lower is its mirror image. */
    for (int i = N_LEVELS / 2; i < N_LEVELS; i++) {
        double wanted = (i + 0.5) / N_LEVELS;
        /* A few rounds are enough: the previous quantile is close. */
        for (int k = 0; k < 20; k++) {
            double f = 0.5 * erfc(-z / root) - wanted;
            double step = f / (height * exp(-z * z / 2));
            z -= step;
            if (fabs(step) < 1e-12)
                break;
        }
        quantiles[i] = (float)z;
        quantiles[N_LEVELS - 1 - i] = (float)-z;
    }
}

/* SplitMix64 (Steele, Lea and Flood 2014) as a function of its counter. */
static uint64_t random_at(uint64_t key, uint64_t counter)
{
    uint64_t z = key + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Made between two looks at the wish to end early. */
enum { LOOK_ELEMENTS = 1 << 20 };

static qmoe_status fill_random(uint16_t *data, uint64_t first, uint64_t n,
    uint64_t key, float spread, qmi_error *err)
{
    uint16_t *table =
        qmi_calloc(N_LEVELS, sizeof *table, "random weights", err);
    if (table == NULL)
        return QMOE_E_NOMEM;
    /* Values of this tensor's spread, rounded once for all of its elements. */
    for (int i = 0; i < N_LEVELS; i++)
        table[i] = qmi_f32_to_bf16(quantiles[i] * spread);
    /* Four elements share a random number. */
    for (uint64_t i = first; i < first + n;) {
        /* `first` may be inside of a group of four, so the look is at any of
         * them. */
        if (i % LOOK_ELEMENTS < 4 && qmi_cancelled(err))
            break;
        /* A start inside of a group takes the later bits of the same number. */
        uint64_t bits = random_at(key, i / 4) >> (i % 4 * 16);
        do
            data[i++ - first] = table[bits & 0xffff];
        while (bits >>= 16, i % 4 != 0 && i < first + n);
    }
    qmi_free(table);
    return qmi_check_cancel(err);
}

static qmoe_status fill(const qmi_tensor_file *file, const qmi_tensor *t,
    uint64_t begin, uint64_t end, qmi_error *err)
{
    static const uint16_t one = 0x3f80;
    const source *s = file->own;
    const law *values = &s->laws[t - file->tensors];
    /* Whole elements: a range may begin or end inside of one. */
    uint64_t first = begin / 2, n = (end + 1) / 2 - first;
    uint16_t *data = (uint16_t *)(uintptr_t)t->data + first;
    /* By name and not by number: fewer blocks leave the other tensors as they
     * were. */
    uint64_t key = s->synth.seed ^ qmi_hash64(t->name, strlen(t->name));
    if (values->spread != 0)
        return fill_random(data, first, n, key, values->spread, err);
    for (uint64_t i = 0; i < n; i++)
        data[i] = one;
    return QMOE_OK;
}

/* ---- the container ---- */

/* Index of the last tensor that begins at or before `data`. */
static size_t tensor_at(const qmi_tensor_file *file, const void *data)
{
    size_t low = 0, high = file->n_tensors;
    /* Bisection: tensors lie in the order of the list. */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (file->tensors[middle].data <= (const uint8_t *)data)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static uint64_t clip(const uint8_t *p, const qmi_tensor *t)
{
    if (p <= t->data)
        return 0;
    uint64_t n = (uint64_t)(p - t->data);
    return n < t->n_bytes ? n : t->n_bytes;
}

/* Experts that run stay in memory: an error comes before there is none. */
static qmoe_status check_memory(
    const qmi_tensor_file *file, uint64_t n_bytes, qmi_error *err)
{
    static const uint64_t reserve = UINT64_C(64) << 20;
    /* 0: the system does not say. */
    const uint64_t available = qmi_available_memory();
    if (available == 0 || available > n_bytes + reserve)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_NOMEM,
        "%s: no memory for more synthetic weights (%.1f MB are free); fewer "
        "experts or blocks need less: ?experts=N",
        file->path, (double)available / 1e6);
}

static qmoe_status make(const qmi_tensor_file *file, const qmi_tensor *t,
    uint64_t begin, uint64_t end, qmi_error *err)
{
    const source *s = file->own;
    _Atomic(bool) *is_made = &s->is_made[t - file->tensors];
    /* Two threads may both make it: the bytes are the same. */
    if (atomic_load_explicit(is_made, memory_order_acquire))
        return QMOE_OK;
    QMI_TRY(check_memory(file, end - begin, err));
    QMI_TRY(fill(file, t, begin, end, err));
    /* Only a whole tensor is remembered; parts are made again. */
    if (begin == 0 && end == t->n_bytes)
        atomic_store_explicit(is_made, true, memory_order_release);
    return QMOE_OK;
}

static qmoe_status fetch(const qmi_tensor_file *file, const void *data,
    uint64_t n_bytes, qmi_error *err)
{
    /* A range may reach over several tensors. */
    const uint8_t *begin = data, *end = begin + n_bytes;
    for (size_t i = tensor_at(file, data);
         i < file->n_tensors && file->tensors[i].data < end; i++) {
        const qmi_tensor *t = &file->tensors[i];
        QMI_TRY(make(file, t, clip(begin, t), clip(end, t), err));
    }
    return QMOE_OK;
}

static bool holds_view(const qmi_tensor_file *file, const void *data)
{
    const uint8_t *p = data;
    return file->n_tensors != 0 && p >= file->map.data &&
           p < file->map.data + file->map.n_bytes &&
           file->tensors[tensor_at(file, data)].is_view;
}

/* Tensors lie on pages of their own, so nothing of a neighbour is lost. */
static void release(
    const qmi_tensor_file *file, const void *data, uint64_t n_bytes)
{
    const source *s = file->own;
    const qmi_tensor *t = &file->tensors[tensor_at(file, data)];
    if (!s->laws[t - file->tensors].is_expert || n_bytes != t->n_bytes)
        return;
    atomic_store(&s->is_made[t - file->tensors], false);
    madvise((void *)(uintptr_t)data, (size_t)n_bytes, MADV_DONTNEED);
}

static void close_source(qmi_tensor_file *file)
{
    source *s = file->own;
    if (s != NULL) {
        qmi_free(s->laws);
        qmi_free(s->is_made);
    }
    qmi_free(s);
}

static const qmi_container container = {.fetch = fetch,
    .release = release,
    .holds_view = holds_view,
    .close = close_source,
    .is_generated = true};

/* Address space costs nothing until it is written to. */
static qmoe_status reserve(qmi_tensor_file *file, qmi_error *err)
{
    const source *s = file->own;
    /* Not counted against memory before it is written, whatever the size of the
     * model. */
    void *data = mmap(NULL, (size_t)s->n_bytes, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return qmi_fail_errno(err, "%s: cannot reserve %.1f GB of addresses",
            file->path, (double)s->n_bytes / 1e9);
    file->map = (qmi_map){.data = data, .n_bytes = s->n_bytes};
    /* Offsets become addresses. */
    for (size_t i = 0; i < file->n_tensors; i++)
        file->tensors[i].data =
            file->map.data + (uintptr_t)file->tensors[i].data;
    return QMOE_OK;
}

static qmoe_status open_source(
    qmi_tensor_file *file, const qmi_synth *synth, qmi_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    source *s = qmi_calloc(1, sizeof *s, "a synthetic checkpoint", err);
    if (s == NULL)
        return QMOE_E_NOMEM;
    file->own = s;
    s->synth = *synth;
    lister l = {.file = file, .source = s, .err = err};
    QMI_TRY(synth->is_decoder ? list_decoder(&l) : list_switch(&l));
    QMI_TRY(reserve(file, err));
    s->is_made =
        qmi_calloc(file->n_tensors, sizeof *s->is_made, "the tensor list", err);
    if (s->is_made == NULL)
        return QMOE_E_NOMEM;
    pthread_once(&once, make_quantiles);
    /* Stands for the header in digests: the specification says all of it. */
    file->header_hash = qmi_hash64(file->path, strlen(file->path));
    return qmi_tensor_file_index(file, err);
}

qmoe_status qmi_synth_open(qmi_tensor_file **out, const qmi_synth *synth,
    const char *specification, qmi_error *err)
{
    *out = NULL;
    qmi_tensor_file *file = NULL;
    QMI_TRY(qmi_tensor_file_create(&file, &container, specification, err));
    qmoe_status status = open_source(file, synth, err);
    if (status != QMOE_OK) {
        qmi_tensor_file_close(file);
        return status;
    }
    *out = file;
    return QMOE_OK;
}
