/* SPDX-License-Identifier: Apache-2.0
 * qmoe devices: what this build can compute on here.  In: the registry of the
 * context.  Out: one line or JSON member per device, unusable ones with the
 * reason.  A backend without a device is listed, too: its absence is what the
 * user came to understand. */
#include "cli.h"

#include <stdlib.h>

static const char help[] =
    "Usage: qmoe devices [options]\n"
    "\n"
    "Lists every backend with its devices, or the reason why it has none.\n"
    "--backend and --device take the names, numbers and types listed here.\n"
    "The backend 'reference' is the plain implementation that the others are\n"
    "compared with.  Backend modules are searched in $QMOE_BACKEND_PATH, in\n"
    "the directory qmoe-backends beside the program, and in the installed "
    "one.\n"
    "A module that another user could have changed is not loaded.\n"
    "\n"
    "Options:\n"
    "  --json               print the list as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Example:\n"
    "  qmoe devices\n";

/* A backend without a device has the reason as its detail. */
static void print_json(const qmoe_device_info *devices, size_t n)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "version", qmoe_version());
    cJSON *list = cJSON_AddArrayToObject(json, "devices");
    for (size_t i = 0; i < n; i++) {
        const qmoe_device_info *d = &devices[i];
        cJSON *item = cJSON_CreateObject();
        cli_json_text(item, "backend", d->backend);
        /* A backend without a device has no number. */
        if (d->index >= 0)
            cli_json_count(item, "index", (uint64_t)d->index);
        else
            cJSON_AddNullToObject(item, "index");
        cJSON_AddBoolToObject(item, "usable", d->usable);
        cJSON_AddBoolToObject(item, "is_gpu", d->is_gpu);
        cli_json_text(item, "type", d->type);
        cli_json_text(item, "name", d->name);
        cli_json_text(item, "detail", d->detail);
        cli_json_count(item, "memory_bytes", d->memory_bytes);
        cJSON_AddItemToArray(list, item);
    }
    cli_json_print(json);
}

/* In columns that a person reads; devices' names may hold anything and come
 * behind them. */
static void print_text(const qmoe_device_info *devices, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const qmoe_device_info *d = &devices[i];
        printf("%-10s", d->backend);
        if (!d->usable) {
            fputs("-  not usable: ", stdout);
            cli_print_name(stdout, d->detail);
            fputc('\n', stdout);
            continue;
        }
        printf("%d  %s  ", d->index, d->type);
        cli_print_name(stdout, d->name);
        if (d->memory_bytes != 0)
            printf(", %s", cli_human_bytes(d->memory_bytes).text);
        if (d->detail[0] != '\0') {
            fputs(" (", stdout);
            cli_print_name(stdout, d->detail);
            fputc(')', stdout);
        }
        fputc('\n', stdout);
    }
}

/* Asked twice: for the number, then for the devices. */
static cli_exit list(const cli_session *s, bool as_json)
{
    size_t n = 0;
    qmoe_status status = qmoe_devices(s->context, NULL, 0, &n);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    size_t capacity = n;
    qmoe_device_info *devices = cli_grow(NULL, capacity * sizeof *devices);
    status = qmoe_devices(s->context, devices, capacity, &n);
    /* One that appeared in between is for the next call. */
    n = n < capacity ? n : capacity;
    /* The error is told after the list is freed. */
    if (status != QMOE_OK)
        n = 0;
    else if (as_json)
        print_json(devices, n);
    else
        print_text(devices, n);
    free(devices);
    return status == QMOE_OK ? CLI_OK : cli_fail_status(s, status);
}

static cli_exit run(int argc, char **argv)
{
    bool as_json = false;
    const cli_option table[] = {{"json", 0, CLI_SET, &as_json, 0, 0}};
    cli_exit code;
    cli_session s;
    if (!cli_parse(&code, NULL, NULL, &cli_verb_devices, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    code = cli_open_context(&s, 0);
    if (code == CLI_OK)
        code = list(&s, as_json);
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_devices = {
    "devices", "list backends and devices", help, run};
