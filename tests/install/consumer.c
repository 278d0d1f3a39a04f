/* SPDX-License-Identifier: Apache-2.0
 * A program of someone else's: links the installed libqmoe, prints its version
 * and the devices it sees.  Fails unless the version is the header's and the
 * CPU is usable. */
#include <qmoe/bench.h>
#include <qmoe/qmoe.h>
#include <qmoe/quant.h>

#include <stdio.h>
#include <string.h>

enum { MAX_DEVICES = 32 };

static int list_devices(qmoe_context *context)
{
    qmoe_device_info devices[MAX_DEVICES];
    size_t n = 0;
    int has_cpu = 0;
    if (qmoe_devices(context, devices, MAX_DEVICES, &n) != QMOE_OK)
        return 0;
    for (size_t i = 0; i < n && i < MAX_DEVICES; i++) {
        printf("%s: %s\n", devices[i].backend,
            devices[i].usable ? devices[i].name : devices[i].detail);
        if (strcmp(devices[i].backend, "cpu") == 0 && devices[i].usable)
            has_cpu = 1;
    }
    return has_cpu;
}

/* The compressor is in the library too: its first check must answer. */
static int compressor_answers(qmoe_context *context)
{
    qmoe_compress_report report;
    qmoe_compress_options options = {
        .size = sizeof options, .format = "no-such-format", .method = "rtn"};
    return qmoe_compress(context, &report, "in", "out", &options) ==
           QMOE_E_UNSUPPORTED;
}

/* So are the benches: an option out of range must be refused. */
static int benches_answer(qmoe_context *context)
{
    qmoe_bench_kernels_report report;
    const int no_tokens = 0;
    qmoe_bench_kernels_options options = {
        .size = sizeof options, .batches = &no_tokens, .n_batches = 1};
    return qmoe_bench_kernels(context, &report, &options) == QMOE_E_INVALID;
}

int main(void)
{
    char version[32];
    qmoe_context *context = NULL;
    snprintf(version, sizeof version, "%d.%d.%d", QMOE_VERSION_MAJOR,
        QMOE_VERSION_MINOR, QMOE_VERSION_PATCH);
    printf("qmoe %s\n", qmoe_version());
    if (strcmp(qmoe_version(), version) != 0)
        return 1;
    if (qmoe_context_create(&context, NULL) != QMOE_OK)
        return 1;
    int good = list_devices(context) && compressor_answers(context) &&
               benches_answer(context);
    qmoe_context_destroy(context);
    return good ? 0 : 1;
}
