/* SPDX-License-Identifier: Apache-2.0
 * How a result can be made again: what quantization_config records of a job
 * (docs/format.md, section 2.2). */
#include "compress_job.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "blas.h"
#include "descriptor.h"
#include "hash.h"
#include "span_corruption.h"

/* ---- values ---- */

/* null is written, not left out, so that readers find every key. */
static bool put_text(cJSON *to, const char *key, const char *value)
{
    return (value != NULL ? cJSON_AddStringToObject(to, key, value)
                          : cJSON_AddNullToObject(to, key)) != NULL;
}

static bool put_number(cJSON *to, const char *key, bool known, double value)
{
    return (known ? cJSON_AddNumberToObject(to, key, value)
                  : cJSON_AddNullToObject(to, key)) != NULL;
}

/* Paths say who made the model where: names alone are recorded.  They are
 * bytes, and JSON is UTF-8, so in a name that is not UTF-8 all bytes above
 * ASCII become '?'. */
static void copy_name(char name[256], const char *path)
{
    snprintf(name, 256, "%s", qmi_last_component(path));
    if (qmi_utf8_valid(name, strlen(name)))
        return;
    for (char *c = name; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
}

/* ---- calibration text ---- */

/* A size at which system calls cost little beside hashing. */
enum { PIECE_BYTES = 1 << 20 };

typedef struct text_file {
    bool known; /* size and hash are; a pipe can be read only once */
    uint64_t n_bytes, hash;
} text_file;

/* n is 0 at the end of the file; a file that grows is read as far as it
 * goes. */
static qmoe_status hash_pieces(
    qmi_job *job, text_file *out, int fd, const char *path, char *piece)
{
    qmi_hasher *hasher = qmi_hasher_create(job->err);
    if (hasher == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    int64_t n = 1;
    while (status == QMOE_OK && n > 0) {
        n = qmi_read_at(fd, piece, PIECE_BYTES, out->n_bytes);
        if (n < 0) {
            status = qmi_fail_errno(job->err, "%s", path);
            break;
        }
        qmi_hasher_add(hasher, piece, (size_t)n);
        out->n_bytes += (uint64_t)n;
        status =
            qmi_progress(&job->context->hooks, "calibration text", NULL, 0, 0);
    }
    out->hash = qmi_hasher_value(hasher);
    qmi_hasher_destroy(hasher);
    return status;
}

static qmoe_status hash_text(qmi_job *job, text_file *out, const char *path)
{
    struct stat info;
    *out = (text_file){0};
    if (stat(path, &info) != 0)
        return qmi_fail_errno(job->err, "%s", path);
    /* Only a regular file can be read again; a pipe was used up by the
     * calibration. */
    out->known = S_ISREG(info.st_mode);
    if (!out->known)
        return QMOE_OK;
    char *piece = qmi_calloc(1, PIECE_BYTES, "a piece of text", job->err);
    if (piece == NULL)
        return QMOE_E_NOMEM;
    /* O_NONBLOCK: if a FIFO took the file's place since the look at it, opening
     * it must not wait for ever. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    qmoe_status status = fd < 0 ? qmi_fail_errno(job->err, "%s", path)
                                : hash_pieces(job, out, fd, path, piece);
    if (fd >= 0)
        close(fd);
    qmi_free(piece);
    return status;
}

static bool put_file(cJSON *files, const char *path, const text_file *file)
{
    char hex[17], name[256];
    cJSON *entry = cJSON_CreateObject();
    if (entry == NULL || !cJSON_AddItemToArray(files, entry))
        return false;
    qmi_hash_hex(hex, file->hash);
    copy_name(name, path);
    return put_text(entry, "name", name) &&
           put_number(entry, "bytes", file->known, (double)file->n_bytes) &&
           put_text(entry, "xxh3", file->known ? hex : NULL);
}

static qmoe_status no_memory(const qmi_job *job)
{
    return qmi_fail(job->err, QMOE_E_NOMEM, "out of memory: config.json");
}

/* A second read of the texts: the first one stopped when it had enough
 * samples. */
static qmoe_status add_texts(qmi_job *job, cJSON *to)
{
    const qmoe_compress_options *o = &job->options;
    cJSON *files = cJSON_AddArrayToObject(to, "files");
    for (size_t i = 0; i < o->n_calibration; i++) {
        text_file file;
        QMI_TRY(hash_text(job, &file, o->calibration[i]));
        if (files == NULL || !put_file(files, o->calibration[i], &file))
            return no_memory(job);
    }
    return QMOE_OK;
}

static bool put_row_weights(const qmi_job *job, cJSON *to)
{
    return !job->weighs_rows || put_text(to, "row_weights", "gradient");
}

/* What the text means to the model, and how its tokens are weighed. */
static bool put_objective(const qmi_job *job, cJSON *to)
{
    if (job->model->shape.objective == QMI_SPAN_CORRUPTION)
        return put_text(to, "objective", "span corruption") &&
               put_number(
                   to, "longest_document", true, QMI_MAX_DOCUMENT_TOKENS) &&
               put_number(to, "seed", true, (double)job->recipe.seed) &&
               (!job->by_route || put_text(to, "token_weights", "router")) &&
               (!job->borrows || put_text(to, "few_tokens", "borrow")) &&
               put_row_weights(job, to);
    return put_text(to, "objective", "next token") &&
           put_number(to, "context", true, job->window) &&
           put_number(to, "frame_weight", true, job->frame_weight) &&
           put_text(to, "token_weights", job->by_route ? "router" : "equal") &&
           put_text(to, "few_tokens", job->borrows ? "borrow" : "keep") &&
           put_row_weights(job, to);
}

/* What the samples are drawn from and how: with these files, seed and counts
 * the same lists come out again. null for a run without calibration. */
static qmoe_status add_calibration(qmi_job *job, cJSON *to)
{
    const qmi_calibration *c = &job->calibration;
    const qmi_token_set *sets = c->sets;
    const uint64_t asked = job->options.max_samples;
    if (!job->calibrated)
        return put_text(to, "calibration", NULL) ? QMOE_OK : no_memory(job);
    cJSON *o = cJSON_AddObjectToObject(to, "calibration");
    if (o == NULL)
        return no_memory(job);
    QMI_TRY(add_texts(job, o));
    return put_objective(job, o) &&
                   put_number(o, "samples_asked", asked != 0, (double)asked) &&
                   put_number(o, "samples", true, (double)c->n_samples) &&
                   put_number(
                       o, "skipped_documents", true, (double)c->n_skipped) &&
                   put_number(o, "encoder_tokens", true,
                       (double)sets[QMI_ENCODE].n_tokens) &&
                   put_number(o, "decoder_tokens", true,
                       (double)sets[QMI_DECODE].n_tokens)
               ? QMOE_OK
               : no_memory(job);
}

/* ---- options and place ---- */

/* Options that do nothing in the combination at hand are null. */
static bool put_options(const qmi_job *job, cJSON *to)
{
    const qmi_recipe *r = &job->recipe;
    const bool gptq = r->quantiser->needs_hessian;
    const qmi_format *format = r->quantiser->format;
    const bool passes =
        gptq && qmi_quantiser_makes_passes(r->quantiser, r->quant.fit_levels);
    const bool automatic = job->rotation == QMI_ROTATION_AUTO;
    const char *levels = r->quant.fit_levels ? "fit" : "minmax";
    char dense[QMI_DENSE_TEXT];
    qmi_dense_describe(dense, &job->dense_choice);
    const char *dictionary = job->options.fit_dictionary ? "fit" : "paper";
    return put_number(to, "bits", r->bits > 0, r->bits) &&
           put_number(to, "damping", gptq, r->quant.damping) &&
           put_number(to, "passes", passes, r->quant.passes) &&
           (format->rotates && automatic
                   ? put_text(to, "rotation", "auto")
                   : put_number(
                         to, "rotation", format->rotates, job->rotation)) &&
           put_text(to, "levels", format->ternary ? levels : NULL) &&
           put_text(to, "dictionary",
               format->needs_dictionary ? dictionary : NULL) &&
           (!qmi_dense_any(&job->dense_choice) ||
               put_text(to, "dense_bits", dense));
}

/* What rounds: processors and devices do so differently. */
static qmoe_status add_place(qmi_job *job, cJSON *to)
{
    const qmoe_device_info *info = &job->place.info;
    const bool is_cpu = strcmp(info->backend, QMI_HOST_BACKEND) == 0;
    const char *blas = qmi_blas_core();
    char kernels[sizeof info->detail];
    if (!job->calibrated)
        return put_text(to, "backend", NULL) ? QMOE_OK : no_memory(job);
    QMI_TRY(qmi_job_kernels(job, kernels, sizeof kernels));
    cJSON *o = cJSON_AddObjectToObject(to, "backend");
    return o != NULL && put_text(o, "name", info->backend) &&
                   put_text(o, "device", is_cpu ? NULL : info->name) &&
                   put_text(o, "kernels", kernels) &&
                   put_text(o, "blas", blas[0] != '\0' ? blas : NULL)
               ? QMOE_OK
               : no_memory(job);
}

qmoe_status qmi_job_provenance(qmi_job *job, cJSON **out)
{
    *out = cJSON_CreateObject();
    /* Also after a failure *out is the caller's: keys that were added stay in
     * it. */
    if (*out == NULL || !put_options(job, *out))
        return no_memory(job);
    QMI_TRY(add_calibration(job, *out));
    return add_place(job, *out);
}
