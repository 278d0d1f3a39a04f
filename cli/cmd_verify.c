/* SPDX-License-Identifier: Apache-2.0
 * qmoe verify: is a model directory intact? */
#include "cli.h"

#include <inttypes.h>
#include <string.h>

static const char help[] =
    "Usage: qmoe verify MODEL [options]\n"
    "\n"
    "Checks a compressed model: the structure of its files, the checksum of\n"
    "every tensor, and that the codes of every row can be decoded.  Names the\n"
    "first broken tensor and ends with exit code 4 if something is wrong.  "
    "All\n"
    "threads read at once, through small buffers: memory does not grow with\n"
    "the model, and models larger than memory leave the file cache to others.\n"
    "An uncompressed checkpoint carries no checksums, so only its structure\n"
    "can be checked.\n"
    "\n"
    "Options:\n"
    "  -t, --threads N      CPU threads (default: all processors)\n"
    "  --json               print the result as JSON\n"
    "  -h, --help           this text\n"
    "\n"
    "Example:\n"
    "  qmoe verify build/m\n";

static void print_json(
    const char *model, bool compressed, const qmoe_verify_report *r)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "model", model);
    cJSON_AddBoolToObject(json, "ok", true);
    cJSON_AddBoolToObject(json, "compressed", compressed);
    cli_json_count(json, "tensors", r->n_tensors);
    cli_json_count(json, "bytes", r->n_bytes);
    cli_json_count(json, "without_checksum", r->n_without_checksum);
    cli_json_count(json, "rows_checked", r->n_rows_checked);
    cli_json_print(json);
}

static void print_text(bool compressed, const qmoe_verify_report *r)
{
    cli_clear_progress();
    if (compressed)
        printf("ok: %" PRIu64 " tensors, %" PRIu64 " bytes, %" PRIu64
               " rows checked\n",
            r->n_tensors, r->n_bytes, r->n_rows_checked);
    else
        printf("ok: structure of %" PRIu64
               " tensors; the checkpoint is not compressed and carries no "
               "checksums\n",
            r->n_without_checksum);
}

/* The error names the first broken tensor, if the library knows which. */
static cli_exit fail_verify(
    const cli_session *s, qmoe_status status, const qmoe_verify_report *report)
{
    const char *text = qmoe_context_error(s->context);
    const char *bad = report->first_bad;
    if (status == QMOE_E_CANCELLED || bad[0] == '\0' ||
        strstr(text, bad) != NULL)
        return cli_fail_status(s, status);
    return cli_fail(CLI_BROKEN, "%s (first broken tensor: '%s')", text, bad);
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
    code = cli_open_model(&s, n_threads, model);
    if (code == CLI_OK) {
        qmoe_verify_report report;
        qmoe_model_info info;
        qmoe_model_describe(s.model, &info);
        qmoe_status status = qmoe_model_verify(s.model, &report);
        if (status != QMOE_OK)
            code = fail_verify(&s, status, &report);
        else if (as_json)
            print_json(model, info.compressed, &report);
        else
            print_text(info.compressed, &report);
    }
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_verify = {
    "verify", "check every checksum and row of a model", help, run};
