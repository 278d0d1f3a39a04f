/* SPDX-License-Identifier: Apache-2.0
 * A whole model directory: config.json, a NUL, then model.safetensors.  Of what
 * opens every row is decoded; checksums would stop mutations and are left
 * out. */
#include <string.h>

#include "fuzz.h"
#include "qmoe/qmoe.h"

static char directory[64];

static void remove_directory(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    unlink(path);
    rmdir(directory);
}

static void put(const char *name, const uint8_t *data, size_t n_bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, n_bytes, file) != n_bytes ||
        fclose(file) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    const uint8_t *nul = n_bytes == 0 ? NULL : memchr(data, 0, n_bytes);
    if (nul == NULL)
        return 0;
    if (directory[0] == '\0') {
        /* Memory, where there is such a place. */
        strcpy(directory, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        strcat(directory, "/qmoe-fuzz-XXXXXX");
        if (mkdtemp(directory) == NULL)
            abort();
        atexit(remove_directory);
    }
    put("config.json", data, (size_t)(nul - data));
    put("model.safetensors", nul + 1, n_bytes - (size_t)(nul - data) - 1);
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    if (qmoe_context_create(&context, NULL) != QMOE_OK)
        abort();
    if (qmoe_model_open(&model, context, directory) == QMOE_OK) {
        qmoe_weight_stats stats;
        for (size_t i = 0; i < qmoe_model_weight_count(model); i++)
            (void)!qmoe_model_weight_stats(model, i, &stats);
    } else if (model != NULL || qmoe_context_error(context)[0] == '\0') {
        abort();
    }
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return 0;
}
