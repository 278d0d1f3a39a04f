/* SPDX-License-Identifier: Apache-2.0
 * What decides the result of a job, by name: the journal keeps the list, and
 * an interrupted run is continued only by a job with the same one. */
#include "compress_job.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "blas.h"
#include "hash.h"
#include "map.h"

/* Room for the inputs there are always, and then one per file of weights. */
/* What is known as it is added; how much there is depends on the source's files
 * and the options. */
typedef struct list {
    qmi_journal_input *items; /* [capacity] */
    size_t n, capacity;
    qmi_error *err;
    bool failed;             /* there was no memory for one */
    qmi_journal_input spare; /* takes the place of such */
} list;

/* A line of the journal ends at a newline and its fields at tabs: file names
 * may hold both. */
static void keep_one_line(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20)
            *text = '?';
}

static qmi_journal_input *next_item(list *l)
{
    if (l->n == l->capacity) {
        const size_t more = l->capacity != 0 ? 2 * l->capacity : 32;
        qmi_journal_input *grown = qmi_regrow(l->items, l->capacity, more,
            sizeof *grown, "the inputs of the job", l->err);
        if (grown == NULL) {
            l->failed = true;
            return &l->spare;
        }
        l->items = grown;
        l->capacity = more;
    }
    return &l->items[l->n++];
}

/* The next input; its value is printed by the caller. */
static char *add(list *l, const char *name)
{
    qmi_journal_input *input = next_item(l);
    snprintf(input->name, sizeof input->name, "%s", name);
    keep_one_line(input->name);
    return input->value;
}

enum { VALUE_BYTES = sizeof((qmi_journal_input *)NULL)->value };

static void add_text(list *l, const char *name, const char *value)
{
    char *to = add(l, name);
    /* An empty value could not be read back: fields are not empty
     * (qmi_line_parse_input). */
    snprintf(to, VALUE_BYTES, "%s", value[0] != '\0' ? value : "none");
    keep_one_line(to);
}

static void add_number(list *l, const char *name, double value)
{
    /* 17 digits tell any two doubles apart. */
    snprintf(add(l, name), VALUE_BYTES, "%.17g", value);
}

static void add_hash(list *l, const char *name, uint64_t hash)
{
    qmi_hash_hex(add(l, name), hash);
}

static qmoe_status add_json(
    list *l, const qmi_job *job, const char *name, const cJSON *json)
{
    char *text = cJSON_PrintUnformatted(json);
    if (text == NULL)
        return qmi_fail(job->err, QMOE_E_NOMEM, "out of memory: %s", name);
    add_hash(l, name, qmi_hash64(text, strlen(text)));
    cJSON_free(text);
    return QMOE_OK;
}

/* ---- the source ---- */

/* The content, not the text: what the result depends on. */
static qmoe_status add_config(list *l, const qmi_job *job)
{
    return add_json(
        l, job, "config.json", qmi_checkpoint_config(job->model->checkpoint));
}

static qmoe_status add_side_files(list *l, const qmi_job *job)
{
    for (size_t i = 0; i < QMI_N_SIDE_FILES; i++) {
        char *text = NULL;
        size_t n_bytes = 0;
        qmoe_status status = qmi_side_file_read(
            &text, &n_bytes, i, job->model->checkpoint, NULL, job->err);
        /* A file that is missing is an input, too: adding it later changes the
         * output. */
        if (status == QMOE_E_NOT_FOUND)
            add_text(l, qmi_side_files[i], "none");
        else if (status == QMOE_OK)
            add_hash(l, qmi_side_files[i], qmi_hash64(text, n_bytes));
        else
            return status;
        qmi_free(text);
    }
    return QMOE_OK;
}

/* A file of weights while it is read.  Hashing is one read of the source, hours
 * for a large one: hence the progress, which also hears of a wish to end. */
typedef struct reading {
    qmi_job *job;
    qmi_hasher *hasher;
    const char *name;
    uint64_t done, total;
} reading;

static qmoe_status take_piece(void *user, const void *piece, size_t n_bytes)
{
    reading *r = user;
    qmi_hasher_add(r->hasher, piece, n_bytes);
    r->done += n_bytes;
    return qmi_progress(
        &r->job->context->hooks, "checksum", r->name, r->done, r->total);
}

static qmoe_status hash_file(
    qmi_job *job, const qmi_tensor_file *file, const char *name, uint64_t *hash)
{
    /* By content: size and time would refuse a source that was copied
     * (docs/compress.md, "Interruption"). */
    reading r = {
        .job = job, .name = name, .total = qmi_tensor_file_bytes(file)};
    /* Made-up weights are what the header says. */
    *hash = qmi_tensor_file_header_hash(file);
    if (file->container->is_generated)
        return QMOE_OK;
    r.hasher = qmi_hasher_create(job->err);
    if (r.hasher == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status =
        qmi_tensor_file_stream_all(file, take_piece, &r, job->err);
    *hash = qmi_hasher_value(r.hasher);
    qmi_hasher_destroy(r.hasher);
    return status;
}

static qmoe_status add_weights(list *l, qmi_job *job)
{
    const qmi_checkpoint *source = job->model->checkpoint;
    for (size_t i = 0; i < qmi_checkpoint_file_count(source); i++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(source, i);
        const char *path = qmi_tensor_file_path(file);
        const char *name = qmi_last_component(path);
        /* The name without its directory: a source may be moved between two
         * runs. */
        uint64_t hash = 0;
        QMI_TRY(hash_file(job, file, name, &hash));
        add_hash(l, name, hash);
    }
    return QMOE_OK;
}

/* ---- the options ---- */

static bool add_parameter(void *to, const char *key, double value)
{
    char name[64];
    snprintf(name, sizeof name, "parameter %s of the format", key);
    add_number(to, name, value);
    return true;
}

static void add_recipe(list *l, const qmi_job *job)
{
    const qmi_recipe *r = &job->recipe;
    add_text(l, "method", r->quantiser->method);
    add_text(l, "format", r->quantiser->format->name);
    add_number(l, "damping", r->quant.damping);
    add_text(l, "levels", r->quant.fit_levels ? "fit" : "minmax");
    /* A dictionary is built from what its format records. */
    qmi_weight stack = {0};
    const qmi_stack_recipe recipe = {
        .quantiser = r->quantiser, .quant = r->quant};
    qmi_stack_recipe_set(&stack, &recipe);
    qmi_weight_record(&stack, add_parameter, l);
    add_number(l, "rotation", job->rotation);
    add_number(l, "rotation seed", r->quant.rotation_seed);
    add_number(l, "passes", r->quant.passes);
    add_number(l, "bits", r->bits);
    char dense[QMI_DENSE_TEXT];
    qmi_dense_describe(dense, &job->dense_choice);
    add_text(l, "formats beside the experts", dense);
}

qmoe_status qmi_job_kernels(const qmi_job *job, char *out, size_t capacity)
{
    static const char key[] = "kernels: ";
    qmi_place cpu;
    QMI_TRY(
        qmi_place_find(&cpu, job->context, QMI_HOST_BACKEND, NULL, job->err));
    /* "N processors, kernels: ...": how many does not matter. */
    const char *kernels = strstr(cpu.info.detail, key);
    snprintf(out, capacity, "%s",
        kernels != NULL ? kernels + sizeof key - 1 : cpu.info.detail);
    return QMOE_OK;
}

/* Processors and devices round differently, and so may route differently.  Only
 * a calibrated run has a forward pass and calls OpenBLAS. */
static qmoe_status add_place(list *l, const qmi_job *job)
{
    const qmoe_device_info *info = &job->place.info;
    char kernels[sizeof info->detail];
    QMI_TRY(qmi_job_kernels(job, kernels, sizeof kernels));
    add_text(l, "processor", kernels);
    add_text(l, "OpenBLAS", qmi_blas_core());
    add_text(l, "backend", info->backend);
    /* The CPU's name does not matter, its kernels do. */
    if (strcmp(info->backend, QMI_HOST_BACKEND) != 0)
        add_text(l, "device", info->name);
    return QMOE_OK;
}

/* In the order of causes: the first that differs is the one to name. */
static qmoe_status add_all(list *l, qmi_job *job)
{
    add_text(l, "version of qmoe", qmoe_version());
    QMI_TRY(add_config(l, job));
    QMI_TRY(add_side_files(l, job));
    add_recipe(l, job);
    if (job->calibrated) {
        QMI_TRY(add_place(l, job));
        add_number(l, "seed", (double)job->recipe.seed);
        add_hash(l, "calibration samples", job->calibration.hash);
        add_number(l, "weight of frame tokens", job->frame_weight);
        add_text(l, "weights of tokens", job->by_route ? "router" : "equal");
        add_text(l, "experts of few tokens", job->borrows ? "borrow" : "keep");
        add_text(l, "weights of rows", job->weighs_rows ? "gradient" : "equal");
        /* Samples alone decide the weights, but the record is kept, too. */
        QMI_TRY(add_json(l, job, "record of the calibration files",
            cJSON_GetObjectItemCaseSensitive(job->provenance, "calibration")));
    }
    return add_weights(l, job);
}

qmoe_status qmi_job_inputs(qmi_job *job, qmi_journal_input **out, size_t *n)
{
    list l = {.err = job->err};
    *out = NULL;
    *n = 0;
    qmoe_status status = add_all(&l, job);
    if (status == QMOE_OK && l.failed)
        status = QMOE_E_NOMEM;
    if (status != QMOE_OK) {
        qmi_free(l.items);
        return status;
    }
    *out = l.items;
    *n = l.n;
    return QMOE_OK;
}
