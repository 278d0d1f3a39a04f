/* SPDX-License-Identifier: Apache-2.0
 * qmoe plan: what a model will take, before anything is done.  In: a config or
 * model, and what the user says of memories and speeds.  Out: the library's
 * plan as text or JSON; the same plan for each format when none was chosen.
 * Numbers that nobody gave are measured here or said to be unknown; the tool
 * invents none. */
#include "cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats.h"
#include "qmoe/plan.h"

static const char help[] =
    "Usage: qmoe plan CONFIG_OR_MODEL [options]\n"
    "\n"
    "Predicts how large a model will be, where it fits, how long compression\n"
    "takes, and how many tokens per second the reading of its weights allows.\n"
    "No weights are read.  CONFIG_OR_MODEL is a config.json, a directory that\n"
    "holds one (checkpoint, compressed model, published _qmoe directory), or\n"
    "synth:NAME for a published Switch Transformer (base-8 to base-256,\n"
    "large-128, c-2048) or decoder-only model; 'qmoe plan synth:' lists all\n"
    "names.  Without --format all formats are listed, and the\n"
    "rest is computed for the model's own format, or {default}.  A "
    "config.json\n"
    "without weights is compared with the published models.\n"
    "\n"
    "Options:\n"
    "  --format FORMAT      {formats}, or bf16,\n"
    "                       f16, f32\n"
    "  --bits B             bits per expert weight, every byte counted: a "
    "mixture\n"
    "                       of {budget}, as for compress; with --format\n"
    "                       {variable}, whose size depends on the weights,\n"
    "                       the rate to assume (default: that of 88.5 % "
    "zeros);\n"
    "                       other formats have a fixed size\n"
    "  --dense-bits B       bits of the matrices beside the experts, as for\n"
    "                       compress (default 16)\n"
    "  -b, --backend NAME   plan for a device of this machine: cuda, opencl,\n"
    "                       cpu or auto, as for generate; 'qmoe devices'\n"
    "                       lists them\n"
    "  --device D           the device, by number, type (gpu) or part of its\n"
    "                       name; or GPUs elsewhere, by their memory: 48G,\n"
    "                       4x48G or 24G,24G\n"
    "  --device-memory SIZE use at most this much of each device's memory\n"
    "  --gpu LIST           the same as --device with a list of memories\n"
    "  --memory SIZE        host memory (default: what is available here)\n"
    "  --gpu-rate SIZE      bytes per second read from a GPU's memory\n"
    "  --memory-rate SIZE   ... from host memory (default: measured here)\n"
    "  --disk-rate SIZE     ... from disk, e.g. 3G\n"
    "  --samples N          calibration samples (default: 10,000 per 128\n"
    "                       experts, as in the paper)\n"
    "  --rate N             expert weights compressed per second (default:\n"
    "                       from a short measurement of this machine)\n"
    "  --rounds N           rounds of descent, as for compress (default 16)\n"
    "  -t, --threads N      CPU threads that compress (default: all\n"
    "                       processors); may be those of another machine\n"
    "  --json               print the plan as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Speeds are upper bounds: they count the time of reading alone, with "
    "every\n"
    "expert equally likely.  0.5 GiB of each GPU and 1 GiB of memory are left\n"
    "free.\n"
    "\n"
    "Examples:\n"
    "  qmoe plan synth:c-2048 --device 4x48G --gpu-rate 700G\n"
    "  qmoe plan models/switch-mini --backend cuda --device 0\n"
    "  qmoe plan synth:base-128 --bits 0.7\n"
    "  qmoe plan models/switch-mini/config.json --format {default} --json\n"
    "  qmoe plan synth:c-2048 --format {default} --memory 32G --disk-rate 3G\n";

enum { MAX_GPUS = 1024 };

typedef struct request {
    const char *source, *gpus, *backend, *device;
    const char *gpu_option; /* that lists the GPUs, for messages */
    uint64_t gpu_bytes[MAX_GPUS];
    qmoe_device_info here; /* the device of this machine; "" if none is meant */
    uint64_t device_memory;
    float bits;
    uint64_t n_threads, gpu_rate, memory_rate, disk_rate, weight_rate, rounds;
    bool as_json;
    qmoe_plan_options options;
} request;

/* More than there are formats. */
enum { MAX_FORMATS = 32 };

/* The formats that are listed when none is chosen: those of compression, and
 * what most checkpoints have.  NULL past the end. */
static const char *listed_format(size_t index)
{
    qmoe_format_info f;
    size_t n = 0;
    if (qmoe_format_describe(&f, index))
        return f.name;
    while (qmoe_format_describe(&f, n))
        n++;
    return index == n ? "bf16" : NULL;
}

/* 0 where there is nothing to divide by. */
static double per(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* ---- GPU lists ---- */

/* One item, "48G" or "4x48G", of n characters. */
static cli_exit add_gpus(request *q, const char *item, size_t n)
{
    char text[64];
    uint64_t count = 1, n_bytes = 0;
    char *size = text;
    snprintf(text, sizeof text, "%.*s", (int)(n < 63 ? n : 63), item);
    char *cross = strchr(text, 'x');
    if (cross != NULL) {
        char *end;
        *cross = '\0';
        count = strtoull(text, &end, 10);
        if (end == text || *end != '\0' || text[0] == '-')
            count = 0;
        size = cross + 1;
    }
    /* Compared with what is left, which cannot overflow. */
    if (count == 0 || count > MAX_GPUS - q->options.n_gpus)
        return cli_fail(CLI_USAGE,
            "plan: --%s: '%s' is not a number of GPUs up to %d", q->gpu_option,
            text, MAX_GPUS);
    cli_exit code = cli_parse_size(&n_bytes, q->gpu_option, size);
    /* A bound on the device's memory holds for devices elsewhere, too. */
    if (q->device_memory != 0 && n_bytes > q->device_memory)
        n_bytes = q->device_memory;
    for (uint64_t i = 0; code == CLI_OK && i < count; i++)
        q->gpu_bytes[q->options.n_gpus++] = n_bytes;
    return code;
}

/* Empty items are no sizes and end with an error. */
static cli_exit parse_gpus(request *q)
{
    cli_exit code = CLI_OK;
    for (const char *at = q->gpus; at != NULL && code == CLI_OK;) {
        size_t n = strcspn(at, ",");
        code = add_gpus(q, at, n);
        at = at[n] == ',' ? at + n + 1 : NULL;
    }
    q->options.gpu_bytes = q->gpu_bytes;
    return code;
}

/* "4x48G,24G" and not "0" or "rtx": memories are digits with a unit. */
static bool lists_memories(const char *text)
{
    return strspn(text, "0123456789.,xKMGTkmgt") == strlen(text) &&
           strcspn(text, "KMGTkmgt") != strlen(text) &&
           strcspn(text, "0123456789") == 0;
}

/* --device means two things: a device here, or memories elsewhere.  A list is
 * one only if it cannot be a number or a name. */
static cli_exit choose_places(request *q)
{
    q->gpu_option = "gpu";
    if (q->device != NULL && q->backend == NULL && lists_memories(q->device)) {
        if (q->gpus != NULL)
            return cli_fail(
                CLI_USAGE, "plan: --gpu and --device both list GPUs");
        q->gpus = q->device;
        q->device = NULL;
        q->gpu_option = "device";
    }
    if (q->gpus != NULL && (q->device != NULL || q->backend != NULL))
        return cli_fail(CLI_USAGE,
            "plan: a list of GPUs and a device of this machine exclude each "
            "other");
    return parse_gpus(q);
}

/* The memory of a device of this machine, which the CPU has none of: there the
 * plan has host memory alone. */
static cli_exit find_device(request *q, const cli_session *s)
{
    qmoe_device_info *d = &q->here;
    if (q->device == NULL && q->backend == NULL)
        return CLI_OK;
    qmoe_status status = qmoe_find_device(
        s->context, d, q->backend != NULL ? q->backend : "auto", q->device);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    if (!d->is_gpu)
        return CLI_OK;
    /* Zero would plan for a device without memory and say that nothing fits. */
    if (d->memory_bytes == 0)
        return cli_fail(CLI_USAGE,
            "plan: the memory of %s is unknown; give it as --device 24G",
            d->name);
    q->gpu_bytes[0] =
        q->device_memory != 0 && q->device_memory < d->memory_bytes
            ? q->device_memory
            : d->memory_bytes;
    q->options.n_gpus = 1;
    return CLI_OK;
}

/* ---- JSON ---- */

static void json_place(cJSON *json, const char *key, const qmoe_plan_place *p)
{
    cJSON *place = cJSON_AddObjectToObject(json, key);
    cli_json_count(place, "gpu_bytes", p->gpu_bytes);
    cli_json_count(place, "memory_bytes", p->memory_bytes);
    cli_json_count(place, "disk_bytes", p->disk_bytes);
}

static double bits_per_expert_weight(const qmoe_plan_report *r)
{
    return per(8 * (double)r->expert_bytes, (double)r->expert_weights);
}

/* Of the experts' bytes, and so of all. */
static const char *size_kind(const qmoe_plan_report *r)
{
    return r->exact ? "exact" : r->at_most ? "at most" : "about";
}

/* For the chosen format, and for each of the others: the same members. */
static void json_sizes(cJSON *json, const qmoe_plan_report *r)
{
    cli_json_text(json, "format", r->model.format);
    cJSON_AddBoolToObject(json, "exact", r->exact);
    cli_json_text(json, "sizes_are", size_kind(r));
    cli_json_count(json, "total_bytes", r->total_bytes);
    cli_json_count(json, "expert_bytes", r->expert_bytes);
    cli_json_count(json, "other_bytes", r->other_bytes);
    cli_json_real(json, "bits_per_expert_weight", bits_per_expert_weight(r));
    cli_json_real(json, "expert_ratio",
        per(2 * (double)r->expert_weights, (double)r->expert_bytes));
    cli_json_real(json, "ratio",
        per(2 * (double)r->total_weights, (double)r->total_bytes));
    cli_json_count(json, "token_bytes", r->token_bytes);
}

/* null: not given and not measured. */
static void json_rate(cJSON *json, const char *key, double rate)
{
    if (rate > 0)
        cli_json_real(json, key, rate);
    else
        cJSON_AddNullToObject(json, key);
}

/* Sizes of places beside what is usable of them: a reader can see by how much a
 * model does not fit. */
static void json_fit(cJSON *json, const request *q, const qmoe_plan_report *r)
{
    cli_json_count(json, "memory_bytes", r->memory_bytes);
    if (q->here.name[0] != '\0') {
        cJSON *device = cJSON_AddObjectToObject(json, "device");
        cli_json_text(device, "backend", q->here.backend);
        cli_json_count(device, "index", (uint64_t)q->here.index);
        cli_json_text(device, "name", q->here.name);
    }
    cJSON *gpus = cJSON_AddArrayToObject(json, "gpu_bytes");
    for (size_t i = 0; i < q->options.n_gpus; i++)
        cJSON_AddItemToArray(gpus, cJSON_CreateNumber((double)q->gpu_bytes[i]));
    cli_json_count(json, "gpu_usable_bytes", r->gpu_usable_bytes);
    cli_json_count(json, "memory_usable_bytes", r->memory_usable_bytes);
    cJSON_AddBoolToObject(
        json, "fits_gpus", r->total_bytes <= r->gpu_usable_bytes);
    cJSON_AddBoolToObject(
        json, "fits_memory", r->total_bytes <= r->memory_usable_bytes);
    json_place(json, "experts", &r->experts);
    json_place(json, "others", &r->others);
    json_rate(json, "gpu_rate", r->gpu_rate);
    json_rate(json, "memory_rate", r->memory_rate);
    json_rate(json, "disk_rate", r->disk_rate);
    /* From the inverse: seconds add up, rates do not. */
    json_rate(json, "tokens_per_second",
        r->seconds_per_token > 0 ? 1 / r->seconds_per_token : 0);
}

static void json_roles(cJSON *json, const qmoe_plan_report *r)
{
    cJSON *roles = cJSON_AddObjectToObject(json, "roles");
    for (int i = 0; i < QMOE_ROLE_COUNT; i++) {
        cJSON *role =
            cJSON_AddObjectToObject(roles, qmoe_role_name((qmoe_role)i));
        cli_json_count(role, "weights", r->roles[i].n_weights);
        cli_json_count(role, "bytes", r->roles[i].n_bytes);
        cli_json_count(role, "token_bytes", r->roles[i].token_bytes);
    }
}

static void json_compression(cJSON *json, const qmoe_plan_report *r)
{
    cJSON *c = cJSON_AddObjectToObject(json, "compression");
    cli_json_count(c, "samples", r->n_samples);
    json_rate(c, "weights_per_second", r->weight_rate);
    json_rate(c, "seconds", r->compress_seconds);
    cli_json_count(c, "rounds", (uint64_t)r->passes);
    cli_json_count(c, "threads", (uint64_t)r->n_threads);
    cJSON *list = cJSON_AddArrayToObject(c, "recorded");
    const qmoe_recorded_rate *rate;
    for (size_t i = 0; (rate = qmoe_recorded_rate_at(i)) != NULL; i++) {
        cJSON *item = cJSON_CreateObject();
        cli_json_text(item, "what", rate->what);
        cli_json_text(item, "machine", rate->machine);
        cli_json_text(item, "source", rate->source);
        cli_json_real(item, "weights_per_second", rate->weight_rate);
        cJSON_AddItemToArray(list, item);
    }
}

static void print_json(const request *q, const qmoe_plan_report *r,
    const qmoe_plan_report *others, size_t n_others)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "source", q->source);
    cli_json_count(json, "source_bytes", r->source_bytes);
    cli_json_count(json, "total_weights", r->total_weights);
    cli_json_count(json, "expert_weights", r->expert_weights);
    json_sizes(json, r);
    cJSON_AddBoolToObject(json, "from_config", r->from_config);
    json_roles(json, r);
    json_fit(json, q, r);
    if (r->compress_seconds > 0)
        json_compression(json, r);
    cJSON *list = cJSON_AddArrayToObject(json, "formats");
    for (size_t i = 0; i < n_others; i++) {
        cJSON *item = cJSON_CreateObject();
        json_sizes(item, &others[i]);
        cJSON_AddItemToArray(list, item);
    }
    cli_json_print(json);
}

/* ---- text ---- */

/* "3.2 h": the largest unit of which there are two at least, so "90.0 min" and
 * not "1.5 h". */
static const char *duration(char text[32], double seconds)
{
    static const struct {
        double seconds;
        const char *unit;
    } units[] = {{86400, "days"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    size_t i = 0;
    while (i < 3 && seconds < 2 * units[i].seconds)
        i++;
    snprintf(text, 32, "%.1f %s", seconds / units[i].seconds, units[i].unit);
    return text;
}

static void print_roles(const qmoe_plan_report *r)
{
    printf("\n  %-14s  %18s  %10s  %14s\n", "role", "weights", "bytes",
        "read per token");
    for (int i = 0; i < QMOE_ROLE_COUNT; i++) {
        const qmoe_plan_role *p = &r->roles[i];
        if (p->n_weights == 0)
            continue;
        printf("  %-14s  %18" PRIu64 "  %10s  ", qmoe_role_name((qmoe_role)i),
            p->n_weights, cli_human_bytes(p->n_bytes).text);
        printf("%14s\n", cli_human_bytes(p->token_bytes).text);
    }
    printf("  %-14s  %18" PRIu64 "  %10s  ", "all", r->total_weights,
        cli_human_bytes(r->total_bytes).text);
    printf("%14s\n", cli_human_bytes(r->token_bytes).text);
}

static void print_formats(const qmoe_plan_report *plans, size_t n)
{
    printf("\n  %-14s  %10s  %10s  %11s  %8s\n", "format", "all", "experts",
        "bits/weight", "ratio");
    for (size_t i = 0; i < n; i++) {
        const qmoe_plan_report *r = &plans[i];
        printf("  %-14s  %10s  ", r->model.format,
            cli_human_bytes(r->total_bytes).text);
        printf("%10s  %11.4f  %7.2fx%s\n",
            cli_human_bytes(r->expert_bytes).text, bits_per_expert_weight(r),
            per(2 * (double)r->expert_weights, (double)r->expert_bytes),
            r->exact ? "" : "  (estimate)");
    }
}

/* usable 0: no bound is known. */
static void print_place(
    const char *name, uint64_t experts, uint64_t others, uint64_t usable)
{
    printf("  %-8s  %s of experts, ", name, cli_human_bytes(experts).text);
    printf("%s of the rest", cli_human_bytes(others).text);
    if (usable != 0)
        printf(", of %s usable", cli_human_bytes(usable).text);
    putchar('\n');
}

static void print_fit(const request *q, const qmoe_plan_report *r)
{
    if (q->here.name[0] != '\0') {
        printf("\ndevice: ");
        cli_print_name(stdout, q->here.name);
        printf(" (%s)", q->here.backend);
    }
    /* The first place that holds all of it, from the fastest on. */
    printf("\nfits: %s\n", r->total_bytes <= r->gpu_usable_bytes ? "the GPUs"
                           : r->total_bytes <= r->memory_usable_bytes
                               ? "host memory"
                           : r->experts.disk_bytes + r->others.disk_bytes == 0
                               ? "GPUs and host memory together"
                               : "not without the disk");
    if (q->options.n_gpus != 0)
        print_place("GPUs", r->experts.gpu_bytes, r->others.gpu_bytes,
            r->gpu_usable_bytes);
    print_place("memory", r->experts.memory_bytes, r->others.memory_bytes,
        r->memory_usable_bytes);
    if (r->experts.disk_bytes + r->others.disk_bytes != 0)
        print_place("disk", r->experts.disk_bytes, r->others.disk_bytes, 0);
    if (r->seconds_per_token > 0)
        printf("  speed     at most %.3g tokens/s (one sequence, reading "
               "alone)\n",
            1 / r->seconds_per_token);
    else
        printf("  speed     unknown: give --gpu-rate, --memory-rate, "
               "--disk-rate\n");
}

/* What the estimate rests on is said with it: given or measured here, with or
 * without the disk. */
static void print_compression(const request *q, const qmoe_plan_report *r)
{
    char text[32];
    const qmoe_recorded_rate *rate;
    if (r->compress_seconds <= 0)
        return;
    printf("\ncompression: about %s (", duration(text, r->compress_seconds));
    if (r->weight_rate > 0)
        printf("%.3g expert weights/s, ", r->weight_rate);
    printf("%s%s; %" PRIu64 " samples, %d rounds, %d threads)\n",
        q->weight_rate != 0 ? "as given" : "measured parts",
        q->disk_rate != 0     ? ", and the disk"
        : q->weight_rate != 0 ? "; without the disk"
                              : ", and a disk of 500 MB/s",
        r->n_samples, r->passes, r->n_threads);
    for (size_t i = 0;
         r->weight_rate > 0 && (rate = qmoe_recorded_rate_at(i)) != NULL; i++)
        printf("  recorded  %s: %.3g weights/s\n"
               "            (%s; %s)\n",
            rate->what, rate->weight_rate, rate->machine, rate->source);
}

/* Of a model without experts only the whole. */
static void print_size(const qmoe_plan_report *r)
{
    const char *kind = r->exact ? "" : size_kind(r);
    const char *space = r->exact ? "" : " ";
    if (r->expert_weights != 0)
        printf("as %s: ", r->model.format);
    printf("%s%s%s, ", kind, space, cli_human_bytes(r->total_bytes).text);
    if (r->expert_weights != 0)
        printf("%s%s%.4f bits per expert weight (%.2fx), ", kind, space,
            bits_per_expert_weight(r),
            per(2 * (double)r->expert_weights, (double)r->expert_bytes));
    printf("%.2fx overall\n",
        per(2 * (double)r->total_weights, (double)r->total_bytes));
}

static void print_text(const request *q, const qmoe_plan_report *r,
    const qmoe_plan_report *others, size_t n_others)
{
    const qmoe_model_info *m = &r->model;
    cli_print_name(stdout, q->source);
    printf(": %s, ", m->architecture);
    /* Encoder and decoder, or a decoder alone. */
    if (m->n_encoder_blocks != 0)
        printf("%" PRId64 " + ", m->n_encoder_blocks);
    printf("%" PRId64 " blocks", m->n_decoder_blocks);
    if (m->n_sparse_blocks != 0)
        printf(", %" PRId64 " sparse with %" PRId64 " experts",
            m->n_sparse_blocks, m->n_experts);
    printf("\n");
    /* Sizes without weights are computed; the reader should know. */
    if (r->from_config)
        printf("(no weights found: sizes follow from config.json)\n");
    print_size(r);
    print_roles(r);
    if (n_others != 0 && r->expert_weights != 0)
        print_formats(others, n_others);
    print_fit(q, r);
    print_compression(q, r);
}

/* ---- options without effect ---- */

/* Known from the command line and the device alone. */
static cli_exit refuse_idle_places(const request *q)
{
    const cli_idle rules[] = {
        {q->options.n_gpus == 0, "gpu-rate device-memory",
            "the plan has no GPU"},
        {q->weight_rate != 0, "samples rounds",
            "--rate says how fast experts are compressed"},
        {q->weight_rate != 0 && q->memory_rate != 0, "threads",
            "--rate and --memory-rate leave nothing to measure"},
    };
    return cli_refuse_idle(&cli_verb_plan, rules, sizeof rules / sizeof *rules);
}

/* Known when the model is. */
static cli_exit refuse_idle_compression(const qmoe_plan_report *r)
{
    qmoe_format_info format;
    const bool mixed = strcmp(r->model.format, "mixed") == 0;
    cli_find_format(&format, r->model.format);
    const cli_idle rules[] = {
        {r->compress_seconds <= 0, "rate samples rounds",
            "there is nothing to compress"},
        {!mixed && !cli_format_makes_rounds(&format, false), "rounds",
            "the format has no rounds of descent"},
    };
    return cli_refuse_idle(&cli_verb_plan, rules, sizeof rules / sizeof *rules);
}

/* ---- the verb ---- */

/* What can be refused is refused before the plan, whose measurements take a
 * while. */
static cli_exit plan(request *q)
{
    cli_session s;
    qmoe_plan_report report, others[MAX_FORMATS];
    qmoe_status status = QMOE_OK;
    size_t n_others = 0;
    cli_exit code = cli_open_context(&s, q->n_threads);
    if (code == CLI_OK)
        code = find_device(q, &s);
    if (code == CLI_OK)
        code = refuse_idle_places(q);
    if (code == CLI_OK) {
        status = qmoe_plan(s.context, &report, q->source, &q->options);
        if (status == QMOE_OK)
            code = refuse_idle_compression(&report);
    }
    if (code == CLI_OK) {
        /* Each format by the same function, without measuring again and without
         * repeating messages. */
        qmoe_plan_options o = q->options;
        o.memory_rate = report.memory_rate > 0 ? report.memory_rate : 1;
        o.weight_rate = 1;  /* not to measure again */
        s.is_silent = true; /* the same messages again */
        for (; status == QMOE_OK && q->options.format == NULL && q->bits == 0 &&
               n_others < MAX_FORMATS;
             n_others++) {
            o.format = listed_format(n_others);
            if (o.format == NULL)
                break;
            status = qmoe_plan(s.context, &others[n_others], q->source, &o);
        }
        if (status != QMOE_OK)
            code = cli_fail_status(&s, status);
        else if (q->as_json)
            print_json(q, &report, others, n_others);
        else
            print_text(q, &report, others, n_others);
    }
    cli_close(&s);
    return code;
}

static cli_exit run(int argc, char **argv)
{
    /* static: the list of GPUs is large, and zeroed. */
    static request q;
    qmoe_plan_options *o = &q.options;
    const cli_option table[] = {
        {"format", 0, CLI_TEXT, &o->format, 0, 0},
        {"bits", 0, CLI_REAL, &q.bits, 0, 16},
        {"gpu", 0, CLI_TEXT, &q.gpus, 0, 0},
        {"backend", 'b', CLI_TEXT, &q.backend, 0, 0},
        {"device", 0, CLI_TEXT, &q.device, 0, 0},
        {"device-memory", 0, CLI_SIZE, &q.device_memory, 0, 0},
        {"dense-bits", 0, CLI_TEXT, &o->dense_bits, 0, 0},
        {"rounds", 0, CLI_COUNT, &q.rounds, 0, CLI_MAX_ROUNDS},
        {"memory", 0, CLI_SIZE, &o->memory_bytes, 0, 0},
        {"gpu-rate", 0, CLI_SIZE, &q.gpu_rate, 0, 0},
        {"memory-rate", 0, CLI_SIZE, &q.memory_rate, 0, 0},
        {"disk-rate", 0, CLI_SIZE, &q.disk_rate, 0, 0},
        {"samples", 0, CLI_COUNT, &o->n_samples, 1, UINT64_C(1) << 40},
        {"rate", 0, CLI_COUNT, &q.weight_rate, 1, UINT64_C(1) << 60},
        {"threads", 't', CLI_COUNT, &q.n_threads, 1, CLI_MAX_THREADS},
        {"json", 0, CLI_SET, &q.as_json, 0, 0},
    };
    cli_exit code = CLI_OK;
    q.rounds = CLI_NO_ROUNDS;
    if (!cli_parse(&code, &q.source, "CONFIG_OR_MODEL", &cli_verb_plan, argc,
            argv, table, sizeof table / sizeof *table))
        return code;
    o->size = sizeof *o;
    /* To the digits a float holds. */
    o->bits = round((double)q.bits * 1e6) / 1e6;
    o->gpu_rate = (double)q.gpu_rate;
    o->memory_rate = (double)q.memory_rate;
    o->disk_rate = (double)q.disk_rate;
    o->weight_rate = (double)q.weight_rate;
    /* 0 and "not given" change places: the library's zero means its default. */
    o->passes = q.rounds == 0               ? -1
                : q.rounds == CLI_NO_ROUNDS ? 0
                                            : (int)q.rounds;
    code = choose_places(&q);
    return code == CLI_OK ? plan(&q) : code;
}

const cli_verb cli_verb_plan = {
    "plan", "predict sizes, placement, compression time, speed", help, run};
