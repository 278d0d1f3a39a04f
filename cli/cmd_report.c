/* SPDX-License-Identifier: Apache-2.0
 * qmoe report: a page to look at.  In: a compressed model with its
 * qmoe_report.json, perhaps the uncompressed model and texts.  Out: one HTML
 * file, which appears whole or not at all.  The numbers are those of the report
 * and of qmoe_session_compare; the tool computes none of its own. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comparison.h"
#include "page.h"

static const char help[] =
    "Usage: qmoe report MODEL -o FILE.html [options]\n"
    "\n"
    "Writes a page about a compressed model: where its bytes are, bits and\n"
    "errors by depth, calibration tokens per expert, the matrices with the\n"
    "largest errors, and how the model was made.  With --against and --text\n"
    "it compares the model with the uncompressed one, as 'qmoe eval' does:\n"
    "loss, KL divergence, top-1 agreement, and by block the experts chosen\n"
    "and the error of what the block hands on.  The page is one file without\n"
    "scripts, for any browser.  The same numbers for programs are in\n"
    "MODEL/qmoe_report.json and in the output of 'qmoe eval --json'.\n"
    "\n"
    "Options:\n"
    "  -o, --output FILE    the page to write (required)\n"
    "  --force              replace FILE\n"
    "  --against MODEL2     the uncompressed model\n"
    "  --text FILE          text to compare on; may be repeated\n"
    "  -n, --samples N      stop after N documents or windows (default: all)\n"
    "  --context N          tokens of a window (default 2048)\n"
    "  --documents          each line of the text is a document, as for "
    "eval\n"
    "  --depths N           depths at which to compare, 0 to 15 (default 8);\n"
    "                       each costs another pass of MODEL2\n" CLI_PLACE_HELP
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe report build/m -o build/m.html\n"
    "  qmoe report build/m -o build/m.html --against models/moe-mini \\\n"
    "      --text build/corpus/valid.txt --documents --context 192\n";

typedef struct request {
    const char *model, *output, *against;
    cli_texts texts;
    uint64_t n_samples, context, n_depths;
    bool documents, force;
    cli_place place;
} request;

/* ---- JSON files of the model ---- */

/* The document in an open file. */
static cli_exit parse(cJSON **out, FILE *file, const char *path)
{
    /* That of a model of 98,304 matrices has 30 MB. */
    enum { MOST_BYTES = 1 << 30 };
    struct stat info;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode) ||
        info.st_size > MOST_BYTES)
        return cli_fail(
            CLI_BROKEN, "%s: no regular file of at most 1 GiB", path);
    char *text = cli_grow(NULL, (size_t)info.st_size);
    const size_t n = fread(text, 1, (size_t)info.st_size, file);
    *out = cJSON_ParseWithLength(text, n);
    free(text);
    return *out != NULL ? CLI_OK : cli_fail(CLI_BROKEN, "%s: not JSON", path);
}

/* For cJSON_Delete, also after an error. */
static cli_exit read_json(cJSON **out, const char *directory, const char *name)
{
    const size_t n_path = strlen(directory) + strlen(name) + 2;
    char *path = cli_grow(NULL, n_path);
    snprintf(path, n_path, "%s/%s", directory, name);
    /* Not blocking: a FIFO of that name must not hold the program up. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    FILE *file = fd >= 0 ? fdopen(fd, "rb") : NULL;
    cli_exit code = file != NULL
                        ? parse(out, file, path)
                        : cli_fail(CLI_FILES, "%s: %s", path, strerror(errno));
    if (file != NULL)
        fclose(file);
    else if (fd >= 0)
        close(fd);
    free(path);
    return code;
}

/* ---- the page's file ---- */

/* A page in the model's directory would be a file that its config.json does
 * not record. */
static bool is_in_model(const request *r)
{
    struct stat model, parent;
    char *directory = cli_grow(NULL, strlen(r->output) + 2);
    strcpy(directory, r->output);
    char *slash = strrchr(directory, '/');
    if (slash == NULL)
        strcpy(directory, ".");
    else
        slash[slash == directory] = '\0';
    const bool is_in =
        stat(r->model, &model) == 0 && stat(directory, &parent) == 0 &&
        model.st_dev == parent.st_dev && model.st_ino == parent.st_ino;
    free(directory);
    return is_in;
}

static cli_exit check_output(const request *r)
{
    struct stat info;
    if (r->output == NULL || r->output[0] == '\0')
        return cli_fail(
            CLI_USAGE, "report: the output file is missing; give -o FILE");
    if (is_in_model(r))
        return cli_fail(CLI_USAGE,
            "%s: the page would lie in the directory of the model", r->output);
    if (lstat(r->output, &info) != 0)
        return CLI_OK;
    if (!S_ISREG(info.st_mode))
        return cli_fail(
            CLI_FILES, "%s: exists and is no regular file", r->output);
    return r->force ? CLI_OK
                    : cli_fail(CLI_FILES, "%s: exists; --force replaces it",
                          r->output);
}

/* Written beside its place and renamed: never half a page. */
static cli_exit write_page(const request *r, const cli_page_data *data)
{
    const size_t n = strlen(r->output) + sizeof ".XXXXXX";
    char *partial = cli_grow(NULL, n);
    snprintf(partial, n, "%s.XXXXXX", r->output);
    const int fd = mkstemp(partial);
    FILE *file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    int error = file == NULL ? errno : 0;
    if (file != NULL) {
        cli_page_write(file, data);
        if (fflush(file) != 0 || fchmod(fd, 0644) != 0 || fsync(fd) != 0)
            error = errno;
        if (fclose(file) != 0 && error == 0)
            error = errno;
        if (error == 0 && rename(partial, r->output) != 0)
            error = errno;
        if (error != 0)
            unlink(partial);
    }
    free(partial);
    return error == 0
               ? CLI_OK
               : cli_fail(CLI_FILES, "%s: %s", r->output, strerror(error));
}

/* ---- the run ---- */

static void add_weights(cli_page_data *data, qmoe_model *model)
{
    qmoe_weight_info info;
    for (size_t i = 0; i < qmoe_model_weight_count(model); i++) {
        if (qmoe_model_weight(model, i, &info) != QMOE_OK)
            continue;
        data->bytes[info.role] += info.n_bytes;
        data->weights[info.role] += info.n_weights;
    }
}

static cli_exit compare(qmoe_comparison *out, const request *r, cli_session *s)
{
    const qmoe_session_options options = cli_session_options(&r->place);
    const qmoe_text_options texts = {
        .size = sizeof texts,
        .text_paths = r->texts.items,
        .n_text_paths = r->texts.n,
        .max_windows = r->n_samples,
        .n_context = (int)r->context,
        .documents = r->documents,
        .n_depths = (int)r->n_depths,
    };
    qmoe_status status = qmoe_session_create(&s->session, s->model, &options);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    return cli_compare_with(out, s, r->against, &r->place, &texts);
}

static cli_exit write_report(
    const request *r, cli_session *s, const cJSON *report, const cJSON *config)
{
    qmoe_comparison comparison = {0};
    cli_page_data data = {
        .name = r->model,
        .report = report,
        .provenance =
            cJSON_GetObjectItemCaseSensitive(config, "quantization_config"),
        .base = r->against,
        .texts = r->texts,
    };
    cli_exit code = CLI_OK;
    add_weights(&data, s->model);
    if (r->against != NULL) {
        code = compare(&comparison, r, s);
        data.comparison = &comparison;
    }
    if (code == CLI_OK)
        code = write_page(r, &data);
    qmoe_comparison_free(&comparison);
    return code;
}

/* The model first: its digests vouch for what the page says of it. */
static cli_exit report(const request *r)
{
    cli_session s = {0};
    cJSON *numbers = NULL, *config = NULL;
    cli_exit code = check_output(r);
    if (code == CLI_OK)
        code = cli_open_model(&s, r->place.n_threads, r->model);
    if (code == CLI_OK)
        code = read_json(&numbers, r->model, "qmoe_report.json");
    if (code == CLI_OK)
        code = read_json(&config, r->model, "config.json");
    if (code == CLI_OK)
        code = write_report(r, &s, numbers, config);
    cJSON_Delete(numbers);
    cJSON_Delete(config);
    cli_close(&s);
    return code;
}

static cli_exit check_options(const request *r)
{
    static const char comparing[] =
        "text samples context documents depths backend device device-memory "
        "expert-cache kv-type expert-capacity";
    const cli_idle rules[] = {
        {r->against == NULL, comparing, "there is no --against"}};
    if (r->against != NULL && r->texts.n == 0)
        return cli_fail(
            CLI_USAGE, "report: --against needs a text; give --text");
    return cli_refuse_idle(
        &cli_verb_report, rules, sizeof rules / sizeof *rules);
}

static cli_exit run(int argc, char **argv)
{
    enum { MAX_CONTEXT = 1 << 20 };
    request r = {.n_depths = 8, .place = {.backend = "auto"}};
    const cli_option table[] = {
        {"output", 'o', CLI_TEXT, &r.output, 0, 0},
        {"force", 0, CLI_SET, &r.force, 0, 0},
        {"against", 0, CLI_TEXT, &r.against, 0, 0},
        {"text", 0, CLI_TEXTS, &r.texts, 0, 0},
        {"samples", 'n', CLI_COUNT, &r.n_samples, 1, UINT64_MAX},
        {"context", 0, CLI_COUNT, &r.context, 2, MAX_CONTEXT},
        {"documents", 0, CLI_SET, &r.documents, 0, 0},
        {"depths", 0, CLI_COUNT, &r.n_depths, 0, QMOE_MAX_DEPTHS},
        CLI_PLACE_OPTIONS(r.place),
    };
    cli_exit code;
    if (cli_parse(&code, &r.model, "MODEL", &cli_verb_report, argc, argv, table,
            sizeof table / sizeof *table)) {
        code = check_options(&r);
        if (code == CLI_OK)
            code = report(&r);
    }
    free(r.texts.items);
    return code;
}

const cli_verb cli_verb_report = {
    "report", "write a page about a compressed model", help, run};
