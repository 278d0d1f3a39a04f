/* SPDX-License-Identifier: Apache-2.0
 * qmoe verify: is a model directory intact?  In: a directory.  Out: every fault
 * in the order of the files, as text while they are found or as one JSON
 * document, and exit code 4 if there is one.  The library checks; the tool only
 * prints. */
#include "cli.h"

#include <inttypes.h>

static const char help[] =
    "Usage: qmoe verify MODEL [options]\n"
    "\n"
    "Checks a compressed model: the digests of config.json, the tokenizer, "
    "the\n"
    "index and every other file, the checksum of every tensor, and that every\n"
    "row can be decoded.  Everything broken is listed in the order of the\n"
    "files, and the exit code is then 4.  Files that do not belong to the\n"
    "model are named on stderr.  All threads read through small buffers:\n"
    "memory does not grow with the model, and a model larger than memory does\n"
    "not displace other files from the file cache.\n"
    "\n"
    "An uncompressed checkpoint carries no checksums, so only its structure\n"
    "is checked.\n"
    "\n"
    "Options:\n"
    "  -t, --threads N      CPU threads (default: all processors)\n"
    "  --json               print the result as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Example:\n"
    "  qmoe verify build/m\n";

/* What is broken goes into `broken` or, when that is NULL, to stdout. */
static void on_fault(void *user, const qmoe_fault *fault)
{
    cJSON *broken = user;
    if (broken == NULL) {
        /* The progress line would run into the fault's. */
        cli_clear_progress();
        fputs("broken: ", stdout);
        cli_print_name(stdout, fault->text);
        putchar('\n');
        return;
    }
    cJSON *json = cJSON_CreateObject();
    cli_json_name(json, "file", fault->file);
    cli_json_name(json, "tensor", fault->tensor);
    cli_json_text(json, "error", fault->text);
    cJSON_AddItemToArray(broken, json);
}

/* Takes `broken` over. */
static void print_json(
    const char *model, const qmoe_verify_report *r, cJSON *broken)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "model", model);
    cJSON_AddBoolToObject(json, "ok", r->n_faults == 0);
    cJSON_AddBoolToObject(json, "compressed", r->compressed);
    cJSON_AddBoolToObject(json, "digest", r->has_digest);
    cli_json_count(json, "tensors", r->n_tensors);
    cli_json_count(json, "bytes", r->n_bytes);
    cli_json_count(json, "without_checksum", r->n_without_checksum);
    cli_json_count(json, "rows_checked", r->n_rows_checked);
    cJSON_AddItemToObject(json, "broken", broken);
    cli_json_print(json);
}

/* What was checked, so that "ok" says how much it means. */
static void print_text(const qmoe_verify_report *r)
{
    cli_clear_progress();
    if (r->compressed)
        printf("ok: %" PRIu64 " tensors, %" PRIu64 " bytes, %" PRIu64
               " rows checked\n",
            r->n_tensors, r->n_bytes, r->n_rows_checked);
    else
        printf("ok: structure of %" PRIu64
               " tensors; the checkpoint is not compressed and carries no "
               "checksums\n",
            r->n_without_checksum);
    if (r->compressed && !r->has_digest)
        puts("no digest: configuration and tokenizer not checked");
}

/* Text appears fault by fault; the document comes whole, at the end. */
static cli_exit verify(const cli_session *s, const char *model, bool as_json)
{
    qmoe_verify_report report;
    cJSON *broken = as_json ? cJSON_CreateArray() : NULL;
    qmoe_status status =
        qmoe_verify(s->context, &report, model, on_fault, broken);
    /* A directory that could not be read at all was not judged: an error, and
     * no document that says so. */
    const bool judged = status == QMOE_OK || report.n_faults != 0;
    if (as_json && judged)
        print_json(model, &report, broken);
    else
        cJSON_Delete(broken);
    /* Faults end with the library's error, whose status gives the exit code. */
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    if (!as_json)
        print_text(&report);
    return CLI_OK;
}

static cli_exit run(int argc, char **argv)
{
    const char *model;
    uint64_t n_threads = 0;
    bool as_json = false;
    const cli_option table[] = {
        {"threads", 't', CLI_COUNT, &n_threads, 1, CLI_MAX_THREADS},
        {"json", 0, CLI_SET, &as_json, 0, 0}};
    cli_exit code;
    cli_session s;
    if (!cli_parse(&code, &model, "MODEL", &cli_verb_verify, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    code = cli_open_context(&s, n_threads);
    if (code == CLI_OK)
        code = verify(&s, model, as_json);
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_verify = {
    "verify", "check every digest, checksum and row of a model", help, run};
